import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.comparison import Overlap, compare, overlap_at

rankings = st.lists(st.integers(0, 60), max_size=60, unique=True)
depths = st.integers(1, 80)


@given(rankings, rankings, depths)
def test_overlap_is_the_same_from_both_sides_and_a_share(first, second, depth):
    overlap = overlap_at(first, second, depth)
    assert overlap == overlap_at(second, first, depth)
    assert 0 <= overlap.share <= 1
    assert overlap.shared <= min(depth, len(first), len(second))


@given(rankings, depths)
def test_a_ranking_is_like_itself(ranking, depth):
    assert overlap_at(ranking, ranking, depth).share == 1
    comparison = compare(ranking, ranking)
    assert set(comparison.rises) <= {0}
    assert comparison.new_count == comparison.gone_count == 0


@given(rankings, rankings)
def test_the_first_ranking_follows_from_the_second_and_the_changes(first, second):
    """What is shown tells everything: where each article was, and which are gone."""
    comparison = compare(first, second)
    before = {
        rank + rise: article
        for rank, (article, rise) in enumerate(zip(second, comparison.rises, strict=True))
        if rise is not None
    }
    stayed = [article for article, gone in zip(first, comparison.gone, strict=True) if not gone]
    assert [before[rank] for rank in sorted(before)] == stayed
    assert all(first[rank] == article for rank, article in before.items())


@given(rankings, rankings)
def test_new_and_gone_are_what_the_sets_differ_by(first, second):
    comparison = compare(first, second)
    assert comparison.new_count == len(set(second) - set(first))
    assert comparison.gone_count == len(set(first) - set(second))
    if first or second:
        last = comparison.overlaps[-1]
        assert last.depth == max(len(first), len(second))
        assert last.shared == len(set(first) & set(second))


def test_an_example():
    comparison = compare([1, 2, 3, 4], [2, 1, 4, 9])
    assert comparison.rises == (1, -1, 1, None)
    assert comparison.gone == (False, False, True, False)
    assert comparison.overlaps == (Overlap(1, 0, 0.0), Overlap(4, 3, 0.75))
    assert comparison.mean_move == 1


def test_what_a_shorter_list_lacks_is_not_shared():
    assert overlap_at([1, 2], [1, 2, 3, 4], 4) == Overlap(4, 2, 0.5)
    assert overlap_at([1, 2], [1, 2, 3, 4], 2) == Overlap(2, 2, 1.0)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [2]), ([], [1])])
def test_without_a_shared_article_nothing_moved(first, second):
    assert compare(first, second).mean_move is None
