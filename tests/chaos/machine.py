"""How fast the machine is at the moment: a shared one changes by a factor of two within minutes."""

import time

__all__ = ["Pace"]

_ADDITIONS = 500_000
_TRIES = 5


class Pace:
    """The speed now over that at the beginning."""

    def __init__(self) -> None:
        self._first_seconds = _seconds_of_fixed_work()

    def now(self) -> float:
        """Answer it; 0.5 where everything takes twice as long."""
        return self._first_seconds / _seconds_of_fixed_work()


def _seconds_of_fixed_work() -> float:
    """Answer the shortest of several tries: the others had company."""
    return min(_timed() for _ in range(_TRIES))


def _timed() -> float:
    started = time.perf_counter()
    total = 0
    for number in range(_ADDITIONS):
        total += number
    return time.perf_counter() - started
