from hypothesis import given
from hypothesis import strategies as st

from service_runtime.admission import FastestLately

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
