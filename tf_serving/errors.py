"""What can go wrong with a model. Messages are those of TensorFlow Serving."""

from enum import IntEnum

from service_runtime.errors import InvalidRequestError, NotFoundError, ReleaseNotHeldError

__all__ = ["Code", "InvalidInputError", "LoadError", "ModelNotFoundError", "SignatureNotFoundError"]


class Code(IntEnum):
    """Canonical status codes, as a version's status carries them."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ModelNotFoundError(NotFoundError):
    """No such model, or no such version of it in service."""


class SignatureNotFoundError(ReleaseNotHeldError):
    """The model has no such signature; TensorFlow Serving answers FAILED_PRECONDITION to that."""


class InvalidInputError(InvalidRequestError):
    """Names, types, shapes or values of the inputs are not what the signature takes."""


class LoadError(Exception):
    """A version cannot be served; code and message are shown by GetModelStatus."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
