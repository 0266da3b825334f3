"""Batches: who travels together, and that nobody's fate is another's."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.coalescing import Coalescer, Window
from service_runtime.deadlines import Deadline
from service_runtime.errors import BackendUnavailableError, InvalidRequestError, OutOfTimeError
from service_runtime.opentelemetry_traces import Tracing
from service_runtime.tracing import traced_call
from tests.support.collector import caller_context, collecting


class Backend:
    """Answers `key:item`; holds batches until it is let go, and keeps what it was sent."""

    def __init__(self) -> None:
        self.batches: list[tuple[object, list[object]]] = []
        self.go_on = asyncio.Event()
        self.went_out = asyncio.Condition()
        self.error: Exception | None = None

    async def send(self, key: object, items: Sequence[object], deadlines: Sequence[Deadline]):
        assert len(items) == len(deadlines)
        self.batches.append((key, list(items)))
        async with self.went_out:
            self.went_out.notify_all()
        await self.go_on.wait()
        if "bad" in items:
            raise InvalidRequestError("bad")
        if self.error is not None:
            raise self.error
        return [
            BackendUnavailableError("mine") if item == "gone" else f"{key}:{item}" for item in items
        ]

    async def until_sent(self, count: int) -> None:
        async with self.went_out, asyncio.timeout(5):
            await self.went_out.wait_for(lambda: len(self.batches) >= count)


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def patient(monkeypatch) -> None:
    """Nothing counts as hanging."""
    monkeypatch.setattr("recommender.coalescing._FIRST_PATIENCE_SECONDS", 60.0)


@pytest.fixture
def wide(monkeypatch) -> None:
    """The window has room for all."""
    monkeypatch.setattr(Window, "size", 16)


def asking(coalescer: Coalescer, key: object, *items: object, seconds: float = 5.0) -> list:
    return [asyncio.ensure_future(coalescer.ask(key, item, Deadline(seconds))) for item in items]


async def outcomes(tasks: list) -> list:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_who_ask_in_the_same_turn_travel_together(backend):
    backend.go_on.set()
    assert await outcomes(asking(Coalescer(backend.send, 8), "k", 1, 2, 3)) == ["k:1", "k:2", "k:3"]
    assert backend.batches == [("k", [1, 2, 3])]


async def test_those_who_ask_while_a_batch_is_away_go_with_its_answer(backend, patient):
    coalescer = Coalescer(backend.send, 8)
    first = asking(coalescer, "k", 1)
    await backend.until_sent(1)
    rest = [*asking(coalescer, "k", 2), *asking(coalescer, "k", 3)]
    await asyncio.sleep(0)
    assert len(backend.batches) == 1
    backend.go_on.set()
    assert await outcomes(first + rest) == ["k:1", "k:2", "k:3"]
    assert backend.batches == [("k", [1]), ("k", [2, 3])]


async def test_few_do_not_wait_for_the_batch_that_is_away(backend, patient, wide):
    coalescer = Coalescer(backend.send, 8)
    tasks = asking(coalescer, "k", 1)
    await backend.until_sent(1)
    tasks += asking(coalescer, "k", 2)
    await backend.until_sent(2)
    backend.go_on.set()
    assert await outcomes(tasks) == ["k:1", "k:2"]


async def test_where_many_are_served_one_batch_of_a_key_is_away_at_a_time(backend, patient, wide):
    coalescer = Coalescer(backend.send, 64)
    tasks = asking(coalescer, "k", 1, 2, 3)
    await backend.until_sent(1)
    tasks += asking(coalescer, "k", 4, 5) + asking(coalescer, "other", 6)
    await backend.until_sent(2)
    backend.go_on.set()
    assert await outcomes(tasks) == ["k:1", "k:2", "k:3", "k:4", "k:5", "other:6"]
    assert backend.batches == [("k", [1, 2, 3]), ("other", [6]), ("k", [4, 5])]


async def test_where_many_are_served_each_backend_of_a_key_has_a_batch(backend, patient, wide):
    coalescer = Coalescer(backend.send, 64, lambda key: {"k": 2}[key])
    tasks = asking(coalescer, "k", 1, 2, 3)
    await backend.until_sent(1)
    tasks += asking(coalescer, "k", 4)
    await backend.until_sent(2)
    tasks += asking(coalescer, "k", 5)
    tasks += asking(coalescer, "k", 6)
    await asyncio.sleep(0)
    backend.go_on.set()
    assert await outcomes(tasks) == [f"k:{item}" for item in range(1, 7)]
    assert backend.batches == [("k", [1, 2, 3]), ("k", [4]), ("k", [5, 6])]


async def test_those_who_are_few_again_wait_no_more(backend, patient, wide):
    coalescer = Coalescer(backend.send, 64)
    first = asking(coalescer, "k", 1, 2, 3)
    await backend.until_sent(1)
    last = asking(coalescer, "k", 4)
    await asyncio.sleep(0)
    for leaving in first[:2]:
        leaving.cancel()
    await backend.until_sent(2)
    assert backend.batches[1] == ("k", [4])
    backend.go_on.set()
    assert await outcomes([first[2], *last]) == ["k:3", "k:4"]


async def test_many_do_not_wait_for_a_batch_that_hangs(backend, wide):
    coalescer = Coalescer(backend.send, 64)
    tasks = asking(coalescer, "k", 1, 2, 3)
    await backend.until_sent(1)
    tasks += asking(coalescer, "k", 4)
    await backend.until_sent(2)
    backend.go_on.set()
    assert await outcomes(tasks) == ["k:1", "k:2", "k:3", "k:4"]


async def test_a_batch_large_enough_does_not_wait_for_the_one_that_is_away(backend, patient, wide):
    coalescer = Coalescer(backend.send, 64)
    tasks = asking(coalescer, "k", 1, 2, 3)
    await backend.until_sent(1)
    tasks += asking(coalescer, "k", *range(4, 20))
    await backend.until_sent(2)
    assert backend.batches[1] == ("k", list(range(4, 20)))
    backend.go_on.set()
    await outcomes(tasks)


async def test_other_keys_travel_apart_and_no_batch_is_larger_than_allowed(backend):
    backend.go_on.set()
    coalescer = Coalescer(backend.send, 2)
    tasks = asking(coalescer, "a", 1, 2, 3) + asking(coalescer, "b", 4)
    assert await outcomes(tasks) == ["a:1", "a:2", "a:3", "b:4"]
    assert sorted(backend.batches) == [("a", [1, 2]), ("a", [3]), ("b", [4])]


async def test_a_batch_of_one_and_a_caller_alone_go_by_themselves(backend):
    backend.go_on.set()
    assert await outcomes(asking(Coalescer(backend.send, 1), "k", 1, 2)) == ["k:1", "k:2"]
    assert backend.batches == [("k", [1]), ("k", [2])]
    assert await Coalescer(backend.send, 8).ask("k", 3, Deadline(5), alone=True) == "k:3"


async def test_a_caller_who_leaves_takes_nobody_along(backend):
    coalescer = Coalescer(backend.send, 8)
    stays, leaves = asking(coalescer, "k", 1, 2)
    await backend.until_sent(1)
    leaves.cancel()
    backend.go_on.set()
    assert await stays == "k:1"
    with pytest.raises(asyncio.CancelledError):
        await leaves


async def test_who_left_before_take_off_is_not_sent(backend, patient):
    coalescer = Coalescer(backend.send, 8)
    first = asking(coalescer, "k", 1)
    await backend.until_sent(1)
    leaves, stays = asking(coalescer, "k", 2, 3)
    await asyncio.sleep(0)
    leaves.cancel()
    backend.go_on.set()
    await outcomes([*first, leaves, stays])
    assert backend.batches == [("k", [1]), ("k", [3])]


async def test_a_short_deadline_ends_its_own_wait_only(backend):
    coalescer = Coalescer(backend.send, 8)
    hurried = asking(coalescer, "k", 1, seconds=0.02)
    patient = asking(coalescer, "k", 2)
    assert isinstance((await outcomes(hurried))[0], OutOfTimeError)
    backend.go_on.set()
    assert await outcomes(patient) == ["k:2"]


async def test_without_time_left_nothing_is_sent(backend):
    with pytest.raises(OutOfTimeError):
        await Coalescer(backend.send, 8).ask("k", 1, Deadline(0))
    assert backend.batches == []


async def test_a_bad_item_is_found_out_and_fails_alone(backend):
    backend.go_on.set()
    answers = await outcomes(asking(Coalescer(backend.send, 8), "k", 1, "bad", 3))
    assert answers[0] == "k:1"
    assert isinstance(answers[1], InvalidRequestError)
    assert answers[2] == "k:3"
    assert backend.batches == [("k", [1, "bad", 3]), ("k", [1]), ("k", ["bad"]), ("k", [3])]


async def test_the_items_of_a_refused_batch_do_not_wait_for_each_other(backend):
    tasks = asking(Coalescer(backend.send, 8), "k", 1, "bad", 3)
    await backend.until_sent(1)
    backend.go_on.set()
    backend.go_on.clear()
    await backend.until_sent(4)  # though none of the three is answered
    backend.go_on.set()
    answers = await outcomes(tasks)
    assert (answers[0], type(answers[1]), answers[2]) == ("k:1", InvalidRequestError, "k:3")


async def test_an_error_of_one_row_is_that_rows(backend):
    backend.go_on.set()
    answers = await outcomes(asking(Coalescer(backend.send, 8), "k", "gone", 2))
    assert isinstance(answers[0], BackendUnavailableError)
    assert answers[1] == "k:2"


@pytest.mark.parametrize("error", [BackendUnavailableError("away"), ZeroDivisionError("a bug")])
async def test_a_failed_batch_fails_all_of_it_and_the_next_goes_out(backend, error):
    backend.go_on.set()
    coalescer = Coalescer(backend.send, 8)
    backend.error = error
    assert await outcomes(asking(coalescer, "k", 1, 2)) == [error, error]
    backend.error = None
    assert await outcomes(asking(coalescer, "k", 3)) == ["k:3"]


async def test_a_batch_that_hangs_does_not_hold_up_the_next(backend):
    coalescer = Coalescer(backend.send, 8)
    first = asking(coalescer, "k", 1)
    await backend.until_sent(1)
    second = asking(coalescer, "k", 2)
    await backend.until_sent(2)  # although the first is still away
    backend.go_on.set()
    assert await outcomes(first + second) == ["k:1", "k:2"]


def test_the_window_opens_while_batches_are_quick_and_closes_when_they_slow_down():
    window = Window()
    assert window.size == 1
    for _ in range(40):
        window.landed(0.001)
    wide = window.size
    assert wide > 4
    for _ in range(40):
        window.landed(0.01)
    assert window.size == 1
    for _ in range(400):
        window.landed(0.001)
    assert 4 < window.size <= 16


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=30),
    st.integers(1, 5),
)
def test_everybody_gets_the_answer_to_what_they_asked(asked, max_batch):
    """Whatever keys come in whatever turns of the event loop."""

    async def run() -> None:
        sizes = []

        async def send(key, items, deadlines):
            sizes.append(len(items))
            await asyncio.sleep(0)
            return [(key, item) for item in items]

        coalescer = Coalescer(send, max_batch)
        tasks = []
        for number, (key, turns) in enumerate(asked):
            tasks += asking(coalescer, key, number)
            for _ in range(turns):
                await asyncio.sleep(0)
        answers = await outcomes(tasks)
        assert answers == [(key, number) for number, (key, _) in enumerate(asked)]
        assert sum(sizes) == len(asked)
        assert max(sizes, default=0) <= max_batch

    asyncio.run(run())


async def test_a_batch_is_a_step_of_its_first_traced_caller_with_links_to_the_others():
    collected = {}

    async def send(key, items, deadlines):
        with traced_call("Search", "127.0.0.1:1") as metadata:
            collected[tuple(items)] = metadata
        return items

    async def ask(coalescer, tracing, item, *metadata):
        step = tracing.begin("/package.Service/Method", metadata)
        try:
            return await coalescer.ask("k", item, Deadline(5.0))
        finally:
            if step is not None:
                step.end_call("OK")

    with collecting() as collector:
        tracing = Tracing(collector.endpoint, "test", sample_ratio=0.0)
        first, second = (caller_context(number)[2] for number in (1, 2))
        together = Coalescer(send, 8)
        await asyncio.gather(
            ask(together, tracing, 1),
            ask(together, tracing, 2, first),
            ask(together, tracing, 3, second),
        )
        # The second batch takes off when the first has landed: in the context of that one.
        alone = Coalescer(send, 1)
        await asyncio.gather(
            *(ask(alone, tracing, item, *given) for item, given in ((4, [first]), (5, [])))
        )
        queueing = Coalescer(send, 2)
        await asyncio.gather(
            *(
                ask(queueing, tracing, item, *([first] if item == 6 else []))
                for item in range(6, 12)
            )
        )
        tracing.close()
    (batch,) = (seen.span for seen in collector.all() if seen.span.links)
    assert batch.trace_id.hex() == caller_context(1)[0]
    assert [link.trace_id.hex() for link in batch.links] == [caller_context(2)[0]]
    assert collected[1, 2, 3] is not None
    assert collected[4,] is not None
    assert collected[5,] is None
    assert [collected[pair] is not None for pair in ((6, 7), (8, 9), (10, 11))] == [
        True, False, False,
    ]  # fmt: skip
