"""Which calls to begin: those that can still be answered in time, and no more than can be."""

import asyncio
import threading
import time
from collections.abc import Callable

from service_runtime.errors import CallError, OutOfTimeError, OverloadedError

__all__ = ["AdaptiveLimit", "BusyThread", "FastestLately", "LoopLag"]

_LATE_SHARE = 0.7
"""Of its deadline: a call that took longer leaves its caller nothing."""
_FAIR_TIMES = 3.0
_LEAST_LIMIT = 8.0
_DECREASE = 0.75
_DECREASE_SECONDS = 0.05
_BEAT_SECONDS = 0.01
_BEATS = 3
_LAG_SECONDS = 0.005
_RAISE = 1.09
_LOWER = 0.99
"""One of the first undoes nine of the second: then one of ten calls that are begun is late."""
_LEAST_SECONDS = 0.0001
_HALVED_SECONDS = 1.0
"""After so long half of what late calls taught is forgotten: those refused by it teach nothing."""
_BUSY_SHARE = 0.85
"""Measured in a recommender beside six servers on one core, with everything begun: 0.95 at three
times the sustained rate, 0.78 at the sustained one, below 0.5 at half of it."""
_BUSY_WINDOW_NS = 100_000_000
_MANY_LATE = 0.1
"""Of the calls lately: that fewer are late is for short deadlines, and not for want of a core."""
_NEWEST_SHARE = 0.05
_FRESH_SHARE = 0.6
"""Of the longest deadlines lately: a call with more than that has not waited for long."""


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
        if now < self._ends + self._window_seconds:
            # Windows follow each other without a gap, or the older one would last longer than two.
            self._previous, self._ends = self._current, self._ends + self._window_seconds
        else:  # after such a pause nothing is recent
            self._previous, self._ends = None, now + self._window_seconds
        self._current = None


class LongestLately(FastestLately):
    """The longest of the last one to two windows."""

    __slots__ = ()

    def record(self, seconds: float) -> None:
        """Count a call."""
        self._turn()
        if self._current is None or seconds > self._current:
            self._current = seconds

    def seconds(self) -> float:
        """Answer the longest; 0 when there was none lately."""
        self._turn()
        return max(self._current or 0.0, self._previous or 0.0)


class AdaptiveLimit:
    """How many calls may be in flight: where more are begun than there are cores to answer them,
    each only gets later, until none is of use.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989), between a few and `most`. Two
    things lower it: an event loop that is late time and again, and calls that take most of their
    deadline for want of a core, while one of ten does. In a `leaf` server, which calls no other,
    that is why they are late; in others it may be a backend that hangs, so there it counts only
    while this thread ran or waited for a core most of the time. One whose deadline is hardly longer
    than the fastest calls take lowers nothing, or one caller's short deadlines would shut out all
    others.
    """

    def __init__(
        self,
        most: int,
        *,
        leaf: bool,
        clock: Callable[[], float] = time.monotonic,
        busy_share: Callable[[], float] | None = None,
    ) -> None:
        self._most = float(most)
        self._leaf = leaf
        self._busy_share = busy_share or BusyThread().share
        self._clock = clock
        self._limit = float(most)
        self._decrease_at = 0.0
        self._needed = 0.0
        self._late_share = 0.0
        self._forgotten_at = clock()
        self._fastest = FastestLately(clock=clock)
        self._longest = LongestLately(clock=clock)

    @property
    def calls(self) -> int:
        """Answer the limit as of now."""
        return int(self._limit)

    def refusal(self, deadline_seconds: float | None, in_flight: int) -> CallError | None:
        """Answer why not to begin a call; None: begin.

        Where calls queue up before they come here, those that have waited longest would else all be
        begun, and none of them answered in time. So where calls are late, more time than they had
        is asked for, until no more than one of ten is late. Calls that have hardly waited are
        always begun, or nobody would find out that the queue is gone.
        """
        if in_flight >= self.calls:
            return OverloadedError(f"{in_flight} calls are in flight")
        if deadline_seconds is None:
            return None
        self._longest.record(deadline_seconds)
        if deadline_seconds <= min(self._needed_now(), _FRESH_SHARE * self._longest.seconds()):
            return OverloadedError("calls queue up, and this one has waited too long")
        if deadline_seconds <= self._fastest.seconds():
            return OutOfTimeError("the deadline leaves less time than any call has taken lately")
        return None

    def answered(self, seconds: float) -> None:
        """Count a call that was answered."""
        self._fastest.record(seconds)

    def lags(self, in_flight: int) -> None:
        """Take note that the event loop is late, with so many calls in flight."""
        self._decrease(in_flight)

    def record(self, seconds: float, deadline_seconds: float | None, in_flight: int) -> None:
        """Count a call that took `seconds`; `in_flight` counts it too."""
        self._learn(seconds, deadline_seconds)
        late = deadline_seconds is not None and seconds > _LATE_SHARE * deadline_seconds
        self._late_share += _NEWEST_SHARE * (late - self._late_share)
        if deadline_seconds is not None and late:
            fair = deadline_seconds >= _FAIR_TIMES * self._fastest.seconds()
            if fair and self._late_share >= _MANY_LATE and self._is_for_want_of_a_core():
                self._decrease(in_flight)
        elif in_flight > self._limit / 2:  # else the limit was not what kept it from being late
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def _is_for_want_of_a_core(self) -> bool:
        return self._leaf or self._busy_share() >= _BUSY_SHARE

    def _needed_now(self) -> float:
        """Answer how much time a call needs to be begun, as far as late calls tell."""
        now = self._clock()
        self._needed *= 0.5 ** ((now - self._forgotten_at) / _HALVED_SECONDS)
        self._forgotten_at = now
        return self._needed

    def _learn(self, seconds: float, deadline_seconds: float | None) -> None:
        # A call that takes long and has the time for it says nothing of those that have less.
        needed = self._needed_now()
        if deadline_seconds is None or seconds <= _LATE_SHARE * deadline_seconds:
            self._needed *= _LOWER
        elif deadline_seconds >= needed:
            self._needed = max(needed, self._fastest.seconds(), _LEAST_SECONDS) * _RAISE

    def _decrease(self, in_flight: int) -> None:
        """Allow fewer than are in flight; where few are, it is not they that are too many."""
        now = self._clock()
        if now >= self._decrease_at and in_flight >= _LEAST_LIMIT:
            most = min(self._limit, in_flight) * _DECREASE
            self._limit = max(min(_LEAST_LIMIT, self._most), most)
            # The calls in flight began under the old limit and may all be late: once is enough.
            self._decrease_at = now + _DECREASE_SECONDS


class BusyThread:
    """How much of the time lately this thread ran or waited for a core, by the kernel's count.

    Between 0 and 1; 0 also where the kernel does not count (Linux's `CONFIG_SCHED_INFO`).
    """

    def __init__(self) -> None:
        self._path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._share = 0.0
        self._at = time.perf_counter_ns()
        self._busy_ns = self._read()

    def share(self) -> float:
        """Answer the share, of the last tenth of a second or more."""
        now = time.perf_counter_ns()
        if now - self._at >= _BUSY_WINDOW_NS:
            busy_ns = self._read()
            self._share = max(0.0, min(1.0, (busy_ns - self._busy_ns) / (now - self._at)))
            self._at, self._busy_ns = now, busy_ns
        return self._share

    def _read(self) -> int:
        try:
            with open(self._path, "rb", buffering=0) as counts:  # noqa: PTH123 - in the hot path
                ran, waited, _ = counts.read().split()
        except (OSError, ValueError):
            return 0
        return int(ran) + int(waited)


class LoopLag:
    """Watches how late the event loop is, for as long as calls are in flight.

    `on_lag` is called when it was late three times in a row by more than 5 ms: that is no burst but
    a queue that stands (as in CoDel, Nichols and Jacobson, 2012).
    """

    def __init__(self, in_flight: Callable[[], int], on_lag: Callable[[], None]) -> None:
        self._in_flight = in_flight
        self._on_lag = on_lag
        self._due = 0.0
        self._late = 0
        self._beating = False

    def watch(self) -> None:
        """Go on, or begin: there is a call in flight."""
        if not self._beating:
            self._beating = True
            self._late = 0
            self._wait(asyncio.get_running_loop())

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not loop.time(), which may be that of the turn's begin.
        self._due = time.perf_counter() + _BEAT_SECONDS
        loop.call_later(_BEAT_SECONDS, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._late = self._late + 1 if time.perf_counter() - self._due > _LAG_SECONDS else 0
        if self._late >= _BEATS:
            self._on_lag()
        self._beating = self._in_flight() > 0
        if self._beating:
            self._wait(loop)
