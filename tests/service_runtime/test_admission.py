import asyncio
import threading
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_runtime.admission import AdaptiveLimit, BusyThread, FastestLately, LoopLag
from service_runtime.errors import OutOfTimeError, OverloadedError

steps = st.lists(st.tuples(st.floats(0, 0.7), st.floats(0.001, 1)), min_size=1)


@given(steps)
def test_it_is_the_shortest_of_at_least_one_and_at_most_two_windows(given_steps):
    now = [0.0]
    fastest = FastestLately(1.0, clock=lambda: now[0])
    seen: list[tuple[float, float]] = []
    for pause, duration in given_steps:
        now[0] += pause
        fastest.record(duration)
        seen.append((now[0], duration))
        value = fastest.seconds()
        assert value <= duration
        # Not older than two windows, and never slower than the last window's shortest.
        assert value in [each for at, each in seen if at >= now[0] - 2.0]
        assert value <= min(each for at, each in seen if at == now[0])


def test_after_a_pause_nothing_is_known():
    now = [0.0]
    fastest = FastestLately(1.0, clock=lambda: now[0])
    assert fastest.seconds() == 0
    fastest.record(0.5)
    now[0] = 1.5
    assert fastest.seconds() == 0.5
    now[0] = 4.0
    assert fastest.seconds() == 0


def limit_of(now: list[float], most: int = 100) -> AdaptiveLimit:
    return AdaptiveLimit(most, leaf=True, clock=lambda: now[0])


def test_late_calls_lower_the_limit_once_for_each_wave_and_calls_in_time_raise_it_again():
    now = [0.0]
    limit = limit_of(now)
    for _ in range(50):
        limit.record(0.045, 0.05, 80)
    assert limit.calls == 60
    for _ in range(40):
        now[0] += 0.05
        limit.record(0.045, 0.05, 80)
    assert limit.calls == 8
    for _ in range(200):
        limit.record(0.01, 0.05, limit.calls)
    assert 20 < limit.calls < 23  # one more for each round of calls
    for _ in range(20_000):
        limit.record(0.01, 0.05, 100)
    assert limit.calls == 100


def test_what_the_limit_did_not_hold_back_does_not_raise_it():
    now = [0.0]
    limit = limit_of(now)
    for _ in range(10):  # of one wave
        limit.record(0.05, 0.05, 100)
    for _ in range(1000):
        limit.record(0.001, 0.05, 10)
    assert limit.calls == 75


def test_deadlines_that_nobody_could_meet_and_calls_without_one_say_nothing():
    limit = limit_of([0.0])
    limit.answered(0.02)
    for _ in range(50):
        limit.record(0.05, 0.05, 100)
        limit.record(10.0, None, 100)
    assert limit.calls == 100


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 300))), st.integers(1, 9)
)
def test_the_limit_stays_between_a_few_and_the_most(calls, most):
    now = [0.0]
    limit = limit_of(now, most)
    for seconds, deadline, in_flight in calls:
        now[0] += seconds
        limit.record(seconds, deadline, in_flight)
        assert min(8, most) <= limit.calls <= most


def test_where_calls_wait_for_others_late_ones_lower_the_limit_while_there_is_no_core_for_them():
    busy = [0.5]
    limit = AdaptiveLimit(100, leaf=False, busy_share=lambda: busy[0])
    for _ in range(10):
        limit.record(0.05, 0.05, 100)
    assert limit.calls == 100
    busy[0] = 0.9
    limit.record(0.05, 0.05, 100)
    assert limit.calls == 75


@pytest.mark.parametrize("leaf", [True, False])
def test_a_few_callers_in_a_hurry_shut_out_nobody(leaf):
    limit = AdaptiveLimit(100, leaf=leaf, busy_share=lambda: 1.0)
    for _ in range(20):
        limit.record(0.05, 0.05, 100)  # one of fifty
        for _ in range(49):
            limit.record(0.05, 10.0, 100)
    assert limit.calls == 100


def test_a_loop_that_lags_lowers_the_limit_of_any_server():
    limit = AdaptiveLimit(100, leaf=False, busy_share=lambda: 0.0)
    limit.lags(40)
    assert limit.calls == 30


def test_how_busy_a_thread_is():
    busy = BusyThread()
    ends = time.perf_counter() + 0.2
    while time.perf_counter() < ends:
        pass
    assert busy.share() > 0.7  # also where it had to wait for a core
    assert busy.share() > 0.7
    threading.Event().wait(0.2)
    assert busy.share() < 0.5


def test_where_the_kernel_does_not_count_nobody_is_busy(monkeypatch):
    busy = BusyThread()
    monkeypatch.setattr(busy, "_path", "/proc/self/task/0/schedstat")
    threading.Event().wait(0.11)
    assert busy.share() == 0


def test_with_how_much_time_a_call_is_worth_beginning():
    now = [0.0]
    limit = limit_of(now)
    assert limit.refusal(0.0001, 0) is None
    limit.answered(0.004)
    assert isinstance(limit.refusal(0.003, 0), OutOfTimeError)
    assert limit.refusal(0.005, 0) is None
    assert limit.refusal(None, 0) is None
    assert isinstance(limit.refusal(None, 100), OverloadedError)


def test_where_calls_come_late_those_that_have_waited_are_refused_and_fresh_ones_never():
    now = [0.0]
    limit = limit_of(now)
    assert limit.refusal(0.05, 0) is None
    for _ in range(100):
        limit.record(0.03, 0.03, 1)
    assert isinstance(limit.refusal(0.02, 0), OverloadedError)
    assert isinstance(limit.refusal(0.029, 0), OverloadedError)
    assert limit.refusal(0.031, 0) is None  # six tenths of what callers give
    for _ in range(300):
        limit.record(0.01, 0.05, 1)
    assert limit.refusal(0.02, 0) is None
    for _ in range(100):
        limit.record(0.03, 0.03, 1)
    now[0] += 2.5  # nobody has come with so much time lately
    assert limit.refusal(0.02, 0) is None


def test_once_calls_are_late_no_more_those_refused_come_in_again_by_themselves():
    now = [0.0]
    limit = limit_of(now)
    for _ in range(200):
        limit.record(1.0, 1.0, 1)  # a backend hung
    limit.refusal(1.0, 0)
    refused = 0
    while limit.refusal(0.02, 0) is not None:  # nothing else is asked, so nothing else teaches
        limit.refusal(1.0, 0)
        now[0] += 0.01
        refused += 1
    assert 100 < refused < 1000  # seconds, and not for ever


@given(st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_long_calls_that_have_the_time_shut_out_no_short_ones(heavy_percent, seed):
    random, now = Random(seed), [0.0]
    limit = limit_of(now)
    limit.answered(0.002)
    for _ in range(500):
        now[0] += 0.01
        heavy = random.randrange(100) < heavy_percent
        seconds, deadline = (0.12, 1.0) if heavy else (0.002, 0.05)
        assert limit.refusal(deadline, 1) is None
        limit.answered(seconds)
        limit.record(seconds, deadline, 1)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.002, 0.008), st.integers(0, 2**32 - 1))
def test_about_one_of_ten_calls_that_are_begun_is_late(work, seed):
    """Calls come with anything from nothing to 50 ms left, and take `work` and up to as much."""
    random, now = Random(seed), [0.0]
    limit = limit_of(now)
    late = []
    for _ in range(8000):
        now[0] += 0.001
        left = random.uniform(0, 0.05)
        if limit.refusal(left, 1) is None:
            seconds = work * random.uniform(1, 2)
            limit.record(min(seconds, left), left, 1)
            late.append(seconds > 0.7 * left)
    settled = late[len(late) // 2 :]
    assert sum(settled) / len(settled) < 0.2


def test_a_late_loop_with_few_calls_in_flight_lowers_nothing():
    limit = limit_of([0.0])
    limit.lags(3)
    assert limit.calls == 100


async def test_a_loop_that_is_late_again_and_again_is_noticed_and_a_burst_is_not():
    lags: list[None] = []
    in_flight = 1
    lag = LoopLag(lambda: in_flight, lambda: lags.append(None))
    lag.watch()
    time.sleep(0.05)  # noqa: ASYNC251 - one burst
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert lags == []
    while not lags:
        time.sleep(0.02)  # noqa: ASYNC251 - a loop with more to do than it can
        await asyncio.sleep(0)
    in_flight = 0
    await asyncio.sleep(0.05)
    assert not lag._beating
