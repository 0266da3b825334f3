"""What can go wrong in a call or at start-up, in words that know nothing of gRPC.

The messages of `CallError` reach the caller: they name the field and the limit.
"""

__all__ = [
    "BackendUnavailableError",
    "CallError",
    "InvalidRequestError",
    "NotFoundError",
    "OutOfTimeError",
    "OverloadedError",
    "ReleaseNotHeldError",
    "StartupError",
]


class CallError(Exception):
    """Base of everything that ends a call with a status other than OK."""


class InvalidRequestError(CallError):
    """A field of the request is wrong."""


class NotFoundError(CallError):
    """What the request names does not exist."""


class OverloadedError(CallError):
    """More work than this server takes on at once."""


class BackendUnavailableError(CallError):
    """A part that the call cannot do without is away, or is still loading."""


class ReleaseNotHeldError(CallError):
    """The request names a release that this server does not hold."""


class OutOfTimeError(CallError):
    """The caller's deadline leaves no time for the work."""


class StartupError(Exception):
    """The process cannot start; the message is the one line that people get to read."""
