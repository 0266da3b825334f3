"""Work that is done sooner than it is handed to a thread and back."""

__all__ = ["ShortWork"]

_SHORT_SECONDS = 0.001
_SHORT_ALONE_SECONDS = 0.002
_NEWEST_SHARE = 0.1


class ShortWork:
    """Learns how long a kind of work takes for each unit of it, and tells what is short.

    Handing work to a thread wakes that thread and then the event loop, which costs more than a
    small search; a millisecond, on the other hand, delays nobody who waits in the loop by much,
    and where nobody else is being served two are still worth it. What is unknown is not short.
    """

    __slots__ = ("_seconds_per_unit",)

    def __init__(self) -> None:
        self._seconds_per_unit: float | None = None

    def is_short(self, units: int = 1, *, alone: bool = False) -> bool:
        """Whether so much work usually takes less than a millisecond, or than two if `alone`."""
        most = _SHORT_ALONE_SECONDS if alone else _SHORT_SECONDS
        return self._seconds_per_unit is not None and units * self._seconds_per_unit < most

    def learn(self, seconds: float, units: int = 1) -> None:
        """Count work that was done; where the thread did it all itself, by `time.thread_time`."""
        each = seconds / units
        if self._seconds_per_unit is None:
            self._seconds_per_unit = each
        else:
            self._seconds_per_unit += _NEWEST_SHARE * (each - self._seconds_per_unit)
