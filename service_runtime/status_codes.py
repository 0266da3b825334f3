"""The one table between our errors and gRPC's status codes, used in both directions."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def translated_errors(backend: str) -> Iterator[None]:
    """Turn a failed call to `backend` into the error of its status; unknown ones count as away."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = _ERRORS.get(error.code(), BackendUnavailableError)
        raise kind(f"{backend}: {error.code().name}: {error.details()}") from error
    except grpc.aio.UsageError as error:
        raise BackendUnavailableError(f"{backend}: {error}") from error
    except asyncio.CancelledError as error:
        # A channel that is closed cancels the calls on it; that is not our caller going away.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise BackendUnavailableError(f"{backend}: the connection was closed") from error
