"""How much time a call has left."""

import time
from typing import Any, Self

import grpc

from service_runtime.errors import OutOfTimeError

__all__ = ["Deadline"]


class Deadline:
    """A moment on the monotonic clock until which an answer is of use."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext[Any, Any], default_seconds: float) -> Self:
        """Take the caller's deadline; gRPC answers None where the caller set none."""
        remaining = context.time_remaining()
        return cls(default_seconds if remaining is None else remaining)

    def remaining(self) -> float:
        """Answer the seconds left; negative once it has passed."""
        return self._at - time.monotonic()

    def budget(self, reserve_seconds: float) -> float:
        """Answer the seconds that one step may take, keeping the reserve for the steps after it.

        Raises OutOfTimeError where nothing is left.
        """
        left = self.remaining() - reserve_seconds
        if left <= 0:
            raise OutOfTimeError("the deadline leaves no time for this call")
        return left
