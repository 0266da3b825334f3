"""The one table between our errors and gRPC's status codes, used in both directions."""

import asyncio
from typing import Final

import grpc

from service_runtime.errors import (
    BackendUnavailableError,
    CallError,
    InvalidRequestError,
    NotFoundError,
    OutOfTimeError,
    OverloadedError,
    ReleaseNotHeldError,
)

__all__ = ["code_of", "translated_errors"]

_CODES: Final[dict[type[CallError], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BackendUnavailableError: grpc.StatusCode.UNAVAILABLE,
    ReleaseNotHeldError: grpc.StatusCode.FAILED_PRECONDITION,
    OutOfTimeError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_ERRORS: Final = {code: error for error, code in _CODES.items()}


def code_of(error: CallError) -> grpc.StatusCode:
    """Answer the status that tells a caller of this error; INTERNAL for a kind of no row."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return grpc.StatusCode.INTERNAL


class translated_errors:  # noqa: N801 - reads as what it does, like contextlib.suppress
    """A context that turns a failed call to `backend` into the error of its status; unknown ones
    count as away. A class, since every call enters one and a generator takes four times as long.
    """

    __slots__ = ("_backend",)

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        if isinstance(error, grpc.aio.AioRpcError):
            translated = _ERRORS.get(error.code(), BackendUnavailableError)
            raise translated(f"{self._backend}: {error.code().name}: {error.details()}") from error
        if isinstance(error, grpc.aio.UsageError):
            raise BackendUnavailableError(f"{self._backend}: {error}") from error
        if isinstance(error, asyncio.CancelledError):
            # A channel that is closed cancels the calls on it; that is not our caller going away.
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise BackendUnavailableError(
                    f"{self._backend}: the connection was closed"
                ) from error
