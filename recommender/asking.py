"""A question to whoever holds the release, and to another one where the first fails."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from recommender.backends import Backend
from recommender.fleet import Fleet
from service_runtime.deadlines import Deadline
from service_runtime.errors import BackendUnavailableError, CallError, OutOfTimeError

__all__ = ["ask_holder"]

BackendT = TypeVar("BackendT", bound=Backend)
AnswerT = TypeVar("AnswerT")


async def ask_holder(
    fleet: Fleet[BackendT],
    release: int,
    deadlines: Sequence[Deadline],
    call: Callable[[BackendT, float], Awaitable[AnswerT]],
) -> AnswerT:
    """Call a holder of the release; after a failure once more, at a different address.

    `deadlines` are those of all who want the answer. Where there is another address, the first
    gets half of the time that the most hurried has left: one that hangs then costs a retry and
    not the answer. But no less than answers take: where little is left, one call with all of it
    is worth more than two with too little. Raises CallError.
    """
    first = fleet.pick(release)
    if first is None:
        raise BackendUnavailableError(f"nobody is ready for release {release}")
    seconds = _longest(deadlines)
    if fleet.second_chance(release, first) is not None:
        half = min(deadline.left() for deadline in deadlines) / 2
        seconds = min(seconds, max(half, fleet.patience_seconds))
    try:
        return await _attempt(fleet, first, release, seconds, call)
    except CallError:
        second = fleet.second_chance(release, first)  # anew: the fleet may have changed
        if second is None:
            raise
    fleet.retried()
    return await _attempt(fleet, second, release, _longest(deadlines), call)


def _longest(deadlines: Sequence[Deadline]) -> float:
    seconds = max(deadline.left() for deadline in deadlines)
    if seconds <= 0:
        raise OutOfTimeError("the deadline leaves no time for this call")
    return seconds


async def _attempt(
    fleet: Fleet[BackendT],
    backend: BackendT,
    release: int,
    seconds: float,
    call: Callable[[BackendT, float], Awaitable[AnswerT]],
) -> AnswerT:
    started = time.perf_counter()
    try:
        answer = await call(backend, seconds)
    except CallError as error:
        fleet.failed(backend, release, error)
        raise
    fleet.succeeded(backend, time.perf_counter() - started)
    return answer
