from hypothesis import given
from hypothesis import strategies as st

from releases.choice import releases_to_hold

releases = st.sets(st.integers(1, 8))


@given(usable=releases, held=releases, in_use=releases, keep=st.integers(1, 3))
def test_what_is_in_use_stays_and_else_the_newest_comes(
    usable: set[int], held: set[int], in_use: set[int], keep: int
) -> None:
    chosen = releases_to_hold(sorted(usable, reverse=True), held, in_use, keep)
    if not usable:
        assert chosen == []
        return
    assert chosen == sorted(set(chosen), reverse=True)
    assert len(chosen) == min(keep, len(usable | held))
    busy = sorted(held & in_use, reverse=True) if keep > 1 else []
    assert set(busy[:keep]) <= set(chosen)
    if len(busy) < keep:
        assert max(usable) in chosen
    fetched = set(chosen) - held - {max(usable)}
    assert not fetched or held <= set(chosen)  # nothing there makes room for an older one


def test_two_at_once_do_not_push_out_what_is_answered_from() -> None:
    assert releases_to_hold([4, 3, 2, 1], held={1, 2}, in_use={2}, keep=2) == [4, 2]
    assert releases_to_hold([4, 3, 2, 1], held={2, 3}, in_use={2}, keep=2) == [4, 2]
    assert releases_to_hold([4, 3, 2, 1], held={2, 3}, in_use={2, 3}, keep=2) == [3, 2]
    assert releases_to_hold([4, 3, 2, 1], held=set(), in_use=set(), keep=2) == [4, 3]
    assert releases_to_hold([3, 2], held={2}, in_use={2}, keep=1) == [3]
    assert releases_to_hold([3, 2], held={2, 4}, in_use={2}, keep=2) == [3, 2]
