"""How much time a call has left."""

import time
from typing import Any, Self

import grpc

from service_runtime.errors import OutOfTimeError

__all__ = ["Deadline"]


class Deadline:
    """A moment on the monotonic clock until which an answer is of use.

    Of the `seconds` until then the last `reserve_seconds` are not for backends: they are kept
    for making and sending the answer, whatever the backends did.
    """

    __slots__ = ("_at", "_reserve_seconds")

    def __init__(self, seconds: float, reserve_seconds: float = 0.0) -> None:
        self._at = time.monotonic() + seconds
        self._reserve_seconds = reserve_seconds

    @classmethod
    def of(
        cls,
        context: grpc.aio.ServicerContext[Any, Any],
        default_seconds: float,
        reserve_fraction: float = 0.0,
    ) -> Self:
        """Take the caller's deadline; gRPC answers None where the caller set none."""
        remaining = context.time_remaining()
        seconds = default_seconds if remaining is None else remaining
        return cls(seconds, seconds * reserve_fraction)

    def remaining(self) -> float:
        """Answer the seconds left; negative once it has passed."""
        return self._at - time.monotonic()

    def left(self) -> float:
        """Answer the seconds left before the reserve; negative where that is all."""
        return self.remaining() - self._reserve_seconds

    def budget(self) -> float:
        """Answer the seconds that the next step may take.

        Raises OutOfTimeError where nothing but the reserve is left.
        """
        left = self.left()
        if left <= 0:
            raise OutOfTimeError("the deadline leaves no time for this call")
        return left
