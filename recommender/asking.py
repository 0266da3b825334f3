"""A question to whoever holds the release, and to another one where the first fails or hangs."""

import asyncio
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

    So, too, where there is no answer after longer than answers usually take: then both are waited
    for, and the first answer counts, a hedged request (Dean and Barroso, The Tail at Scale, 2013).
    An address that hangs costs a retry and not the answer, and one that was only held up may still
    be the first. `deadlines` are those of all who want the answer. Raises CallError.
    """
    first = fleet.pick(release)
    if first is None:
        raise BackendUnavailableError(f"nobody is ready for release {release}")
    if fleet.second_chance(release, first) is None:
        return await _attempt(fleet, first, release, _longest(deadlines), call)

    def begin(backend: BackendT) -> "asyncio.Task[AnswerT]":
        attempt = _attempt(fleet, backend, release, _longest(deadlines), call)
        return asyncio.create_task(attempt)

    tasks = [begin(first)]
    try:
        await asyncio.wait(tasks, timeout=fleet.patience_seconds)
        # Anew: the fleet may have changed.
        if _is_missing(tasks[0]) and (second := fleet.second_chance(release, first)) is not None:
            tasks.append(begin(second))
            fleet.retried()
        answer = await _first_answer(tasks)
        if not tasks[0].done():
            fleet.failed(first, release, OutOfTimeError("one that was asked later answered before"))
        return answer
    finally:
        for task in tasks:
            task.cancel()


def _is_missing(task: "asyncio.Task[AnswerT]") -> bool:
    return not task.done() or isinstance(task.exception(), CallError)


async def _first_answer(tasks: "Sequence[asyncio.Task[AnswerT]]") -> AnswerT:
    """Wait for one that does not fail. Raises the last one's CallError where all do."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not _is_missing(task):
                return task.result()
    return tasks[-1].result()


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
