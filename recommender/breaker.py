"""Stops asking a part that does not answer, so that it costs microseconds and not a time-out."""

import time
from collections.abc import Callable
from types import TracebackType

from service_runtime.errors import BackendUnavailableError

__all__ = ["CircuitBreaker"]


def _never(_: Exception) -> bool:
    return False


class CircuitBreaker:
    """A context manager around each call to one part.

    After `threshold` failures in a row it refuses calls for `open_seconds` by raising
    BackendUnavailableError; then it lets one call through to try, and the others when that one
    succeeds. Any exception is a failure, a time-out too: that is what a hang looks like. But those
    that `is_answer` knows are answers of a part that is well, and a caller that goes away says
    nothing.
    """

    def __init__(
        self,
        part: str,
        *,
        threshold: int,
        open_seconds: float,
        is_answer: Callable[[Exception], bool] = _never,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._part = part
        self._threshold = threshold
        self._open_seconds = open_seconds
        self._is_answer = is_answer
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def is_open(self) -> bool:
        """Answer whether the part failed as often as is enough."""
        return self._failures >= self._threshold

    def __enter__(self) -> None:
        if not self.is_open:
            return
        now = self._clock()
        if now < self._next_try:
            raise BackendUnavailableError(f"{self._part}: failed {self._failures} times in a row")
        self._next_try = now + self._open_seconds  # this call tries, the others wait for it

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, Exception) and self._is_answer(error)):
            self._failures = 0
        elif isinstance(error, Exception):
            self._failures += 1
            if self.is_open:
                self._next_try = self._clock() + self._open_seconds
