"""Whether a call can still be answered in time, judged by the fastest that lately was."""

import time
from collections.abc import Callable

__all__ = ["FastestLately"]


class FastestLately:
    """The shortest duration of the last one to two windows.

    The shortest and not the mean: a call with less time than that cannot be met. And when all are
    refused the windows empty themselves, so that a slow spell does not refuse for ever.
    """

    __slots__ = ("_clock", "_current", "_ends", "_previous", "_window_seconds")

    def __init__(
        self, window_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_seconds = window_seconds
        self._clock = clock
        self._ends = clock() + window_seconds
        self._current: float | None = None
        self._previous: float | None = None

    def record(self, seconds: float) -> None:
        """Count an answered call."""
        self._turn()
        if self._current is None or seconds < self._current:
            self._current = seconds

    def seconds(self) -> float:
        """Answer the shortest; 0 when no call was answered lately."""
        self._turn()
        known = [each for each in (self._current, self._previous) if each is not None]
        return min(known, default=0.0)

    def _turn(self) -> None:
        now = self._clock()
        if now < self._ends:
            return
        # After a pause of more than a window nothing is recent.
        self._previous = self._current if now < self._ends + self._window_seconds else None
        self._current = None
        self._ends = now + self._window_seconds
