"""What queued while a backend was busy goes to it as one batch.

Nobody waits for company while few are served: a call goes out at once where the window has room,
together with those that came in the same turn of the event loop, and otherwise with the first
answer that comes back. Where many are served, each backend of a key has one batch at a time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from recommender.patience import Patience
from service_runtime.admission import FastestLately
from service_runtime.deadlines import Deadline
from service_runtime.errors import CallError, InvalidRequestError, OutOfTimeError
from service_runtime.tracing import current, go_on_with

if TYPE_CHECKING:
    from service_runtime.opentelemetry_traces import Step

__all__ = ["Batch", "Coalescer", "Window"]

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

_MOST_IN_FLIGHT: Final = 16.0
_FIRST_PATIENCE_SECONDS: Final = 0.01
_FASTEST_SECONDS: Final = 5.0
_ROOM: Final = 2.0
_CROWDED: Final = 3.0
_DECREASE: Final = 0.9
_CROWD: Final = 3
_WORTH_A_CALL: Final = 16
"""A call costs as much as some ten of its rows: in so many it hardly counts."""


class Window:
    """How many batches may be in flight, as TCP Vegas finds it (Brakmo and Peterson, 1995).

    While batches take little longer than the fastest lately, more may be in flight, and nobody
    waits. Where they take much longer the processors are busy: then fewer and larger batches do
    the same work with less.
    """

    def __init__(self) -> None:
        self._size = 1.0
        self._fastest = FastestLately(_FASTEST_SECONDS)
        self._patience = Patience()

    @property
    def size(self) -> int:
        """Answer how many may be in flight now."""
        return int(self._size)

    @property
    def patience_seconds(self) -> float:
        """Answer after how long a batch hangs, and is not to hold up others any more."""
        return self._patience.seconds or _FIRST_PATIENCE_SECONDS

    def landed(self, seconds: float) -> None:
        """Count a batch that was answered after `seconds`."""
        self._patience.learn(seconds)
        self._fastest.record(seconds)
        fastest = self._fastest.seconds()
        if seconds < _ROOM * fastest:
            self._size = min(_MOST_IN_FLIGHT, self._size + 1 / self._size)
        elif seconds > _CROWDED * fastest:
            self._size = max(1.0, self._size * _DECREASE)


class Batch(Generic[KeyT, ItemT, AnswerT]):
    """Items of one key on their way, and who waits for each."""

    def __init__(self, key: KeyT) -> None:
        self.key = key
        self.items: list[ItemT] = []
        self.deadlines: list[Deadline] = []
        self.waiting: list[asyncio.Future[AnswerT]] = []
        self.steps: list[Step] = []
        """Of the callers that are traced."""

    def add(self, item: ItemT, deadline: Deadline) -> "asyncio.Future[AnswerT]":
        """Take one more; answer the future of its answer."""
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self.items.append(item)
        self.deadlines.append(deadline)
        self.waiting.append(future)
        if (step := current.get()) is not None:
            self.steps.append(step)
        return future

    def without_those_gone(self) -> "Batch[KeyT, ItemT, AnswerT]":
        """Leave out callers that wait no more."""
        if not any(future.done() for future in self.waiting):
            return self
        left: Batch[KeyT, ItemT, AnswerT] = Batch(self.key)
        left.steps = self.steps
        rows = zip(self.items, self.deadlines, self.waiting, strict=True)
        for item, deadline, future in rows:
            if not future.done():
                left.items.append(item)
                left.deadlines.append(deadline)
                left.waiting.append(future)
        return left

    def fail(self, error: Exception) -> None:
        """Give every caller this error."""
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)

    def answer(self, answers: Sequence[AnswerT | CallError]) -> None:
        """Give each caller its own answer, or its own error."""
        for future, one in zip(self.waiting, answers, strict=True):
            if future.done():
                continue
            if isinstance(one, CallError):
                future.set_exception(one)
            else:
                future.set_result(one)


def _one(_: object) -> int:
    return 1


Send = Callable[
    [KeyT, Sequence[ItemT], Sequence[Deadline]], Awaitable[Sequence[AnswerT | CallError]]
]
"""Answers each item in order, one that cannot be answered by its error; raises CallError for all.
The deadlines are those of the callers."""


class Coalescer(Generic[KeyT, ItemT, AnswerT]):
    """Puts calls with equal keys into batches of at most `max_batch`; 1: each goes by itself.

    `backends_of` answers how many backends share a key's batches.
    What happens to one caller happens to it alone: its deadline and its cancellation end its wait
    and nothing else. Of a batch that is refused for what it contains each item goes out again by
    itself.
    """

    def __init__(
        self,
        send: Send[KeyT, ItemT, AnswerT],
        max_batch: int,
        backends_of: Callable[[KeyT], int] = _one,
    ) -> None:
        self._send = send
        self._max_batch = max_batch
        self._backends_of = backends_of
        self._window = Window()
        self._queue: dict[KeyT, Batch[KeyT, ItemT, AnswerT]] = {}
        self._full: list[Batch[KeyT, ItemT, AnswerT]] = []
        self._in_flight: dict[asyncio.Task[None], KeyT] = {}
        self._hanging: set[asyncio.Task[None]] = set()
        self._flush_is_due = False
        self._callers = 0

    async def ask(
        self, key: KeyT, item: ItemT, deadline: Deadline, *, alone: bool = False
    ) -> AnswerT:
        """Answer one item; raises CallError, OutOfTimeError when the deadline passes.

        `alone`: nobody else is being served, so there is no company to look for.
        """
        budget = deadline.budget()
        if alone or self._max_batch == 1:
            return await self._ask_alone(key, item, deadline)
        batch = self._queue.get(key)
        if batch is None:
            batch = self._queue[key] = Batch(key)
        future = batch.add(item, deadline)
        self._callers += 1
        if len(batch.items) == self._max_batch:
            self._full.append(self._queue.pop(key))
        self._flush_soon()
        # Not asyncio.timeout: it costs three times as much as the timer inside it.
        timer = asyncio.get_running_loop().call_later(budget, _run_out, future)
        try:
            return await future
        finally:
            timer.cancel()
            self._callers -= 1
            if self._queue and self._callers == _CROWD - 1:
                self._flush_soon()

    async def _ask_alone(self, key: KeyT, item: ItemT, deadline: Deadline) -> AnswerT:
        (answer,) = await self._send(key, [item], [deadline])
        if isinstance(answer, CallError):
            raise answer
        return answer

    def _flush_soon(self) -> None:
        """Send once everybody who is about to ask in this turn of the event loop has asked."""
        if not self._flush_is_due and len(self._in_flight) < self._window.size:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        while len(self._in_flight) < self._window.size:
            if (batch := self._next()) is None:
                return
            batch = batch.without_those_gone()
            if batch.items:
                self._take_off(batch)

    def _next(self) -> Batch[KeyT, ItemT, AnswerT] | None:
        """Take the batch out of the queue that may go now, if one may."""
        if self._full:
            return self._full.pop(0)
        for key, batch in self._queue.items():
            if self._may_go(batch):
                return self._queue.pop(key)
        return None

    def _may_go(self, batch: Batch[KeyT, ItemT, AnswerT]) -> bool:
        """Where many are served, a small batch waits for one of its key that is away.

        It would save its callers part of a call's time, and cost the processors, which are busy,
        one more call.
        """
        if self._callers < _CROWD or len(batch.items) >= _WORTH_A_CALL:
            return True
        away = list(self._in_flight.values()).count(batch.key)
        return away < max(1, self._backends_of(batch.key))

    def _take_off(self, batch: Batch[KeyT, ItemT, AnswerT]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._fly(batch))
        self._in_flight[task] = batch.key
        # A backend that hangs must not hold up those who would be sent to another address.
        timer = loop.call_later(self._window.patience_seconds, self._make_room, task)
        task.add_done_callback(lambda task: self._land(task, timer))

    def _make_room(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.pop(task, None)
        self._hanging.add(task)  # the event loop itself keeps no task alive
        self._flush()

    def _land(self, task: "asyncio.Task[None]", timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._in_flight.pop(task, None)
        self._hanging.discard(task)
        self._flush()

    async def _fly(self, batch: Batch[KeyT, ItemT, AnswerT]) -> None:
        go_on_with(batch.steps)
        started = time.perf_counter()
        try:
            answers = await self._send(batch.key, batch.items, batch.deadlines)
        except InvalidRequestError as error:
            if len(batch.items) == 1:
                batch.answer([error])
            else:
                await self._each_alone(batch)
        except Exception as error:  # noqa: BLE001 - each caller's last line of defence logs it
            batch.fail(error)
        else:
            self._window.landed(time.perf_counter() - started)
            batch.answer(answers)

    async def _each_alone(self, batch: Batch[KeyT, ItemT, AnswerT]) -> None:
        """Find out whose item it is that is refused; at once, since they have waited already."""
        rows = zip(batch.items, batch.deadlines, strict=True)
        batch.answer(await asyncio.gather(*(self._answered(batch.key, *row) for row in rows)))

    async def _answered(self, key: KeyT, item: ItemT, deadline: Deadline) -> AnswerT | CallError:
        try:
            return await self._ask_alone(key, item, deadline)
        except CallError as error:
            return error


def _run_out(future: "asyncio.Future[AnswerT]") -> None:
    if not future.done():
        future.set_exception(OutOfTimeError("the deadline passed before there was an answer"))
