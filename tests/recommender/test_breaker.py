import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.breaker import CircuitBreaker
from service_runtime.errors import BackendUnavailableError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def let_through(breaker: CircuitBreaker, *, succeeds: bool) -> bool:
    """Whether the breaker let a call through that then succeeded or failed."""
    try:
        with breaker:
            if not succeeds:
                raise TimeoutError  # noqa: TRY301 - the breaker must see it
    except TimeoutError:
        return True
    except BackendUnavailableError:
        return False
    return True


def test_what_fails_is_tried_once_in_a_while_until_it_succeeds():
    clock = Clock()
    breaker = CircuitBreaker("part", threshold=2, open_seconds=10, clock=clock)
    assert [let_through(breaker, succeeds=False) for _ in range(4)] == [True, True, False, False]
    clock.now = 10
    assert [let_through(breaker, succeeds=False) for _ in range(2)] == [True, False]
    clock.now = 20
    assert [let_through(breaker, succeeds=True) for _ in range(2)] == [True, True]


def test_while_one_call_tries_the_others_are_refused():
    clock = Clock()
    breaker = CircuitBreaker("part", threshold=1, open_seconds=10, clock=clock)
    assert let_through(breaker, succeeds=False)
    clock.now = 10
    with breaker, pytest.raises(BackendUnavailableError, match="part: failed 1 times"), breaker:
        pass


def test_a_caller_that_goes_away_says_nothing_and_an_answer_about_its_key_says_all_is_well():
    breaker = CircuitBreaker(
        "part", threshold=2, open_seconds=10, is_answer=lambda error: isinstance(error, KeyError)
    )
    assert let_through(breaker, succeeds=False)
    with pytest.raises(asyncio.CancelledError), breaker:
        raise asyncio.CancelledError
    assert not breaker.is_open
    with pytest.raises(KeyError), breaker:
        raise KeyError
    assert let_through(breaker, succeeds=False)
    assert not breaker.is_open
    assert let_through(breaker, succeeds=False)
    assert breaker.is_open


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3))))
def test_it_opens_only_after_the_threshold_and_never_for_longer(steps):
    clock = Clock()
    breaker = CircuitBreaker("part", threshold=3, open_seconds=5, clock=clock)
    failures, last_failure = 0, 0.0
    for succeeds, pause in steps:
        clock.now += pause
        refused = not let_through(breaker, succeeds=succeeds)
        if refused:
            assert failures >= 3
            assert clock.now < last_failure + 5
        elif succeeds:
            failures = 0
        else:
            failures, last_failure = failures + 1, clock.now
