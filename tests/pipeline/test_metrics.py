"""Ranks, metrics and baselines against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from pipeline.baselines import PopularityBaseline, TransitionsBaseline
from pipeline.metrics import MISSED, measure, rank_targets, top_columns
from pipeline.preprocess import PreparedArrays
from pipeline.windows import find_repeats

NONE_SEEN = np.zeros((1, 4), bool)


def rank(scores, target, seen=()):
    mask = np.zeros((1, len(scores)), bool)
    mask[0, list(seen)] = True
    return int(rank_targets(np.array([scores], float), np.array([target]), mask)[0])


def test_ranks_count_better_and_equal_scores_against_the_target():
    assert rank([0.1, 0.9, 0.5, 0.5], 1) == 1
    assert rank([0.1, 0.9, 0.5, 0.5], 2) == 3
    assert rank([0.1, 0.9, 0.5, 0.5], 0) == 4
    assert rank([0.5, 0.5, 0.5, 0.5], 0) == 4


def test_seen_articles_give_way_and_a_seen_target_is_missed():
    assert rank([0.1, 0.9, 0.5, 0.6], 2, seen=[1]) == 2
    assert rank([0.1, 0.9, 0.5, 0.6], 2, seen=[1, 3]) == 1
    assert rank([0.1, 0.9, 0.5, 0.6], 2, seen=[2]) == MISSED


def test_a_target_outside_of_the_vocabulary_is_missed():
    assert rank([0.1, 0.9], -1) == MISSED


def test_metrics_of_known_ranks():
    metrics = measure(np.array([1, 3, 60, MISSED]), [np.array([0, 1]), np.array([1, 2])], 4)
    assert metrics.hit_rate == {10: 0.5, 50: 0.5, 200: 0.75}
    assert metrics.ndcg[10] == pytest.approx((1 + 0.5) / 4)
    assert metrics.ndcg[200] == pytest.approx((1 + 0.5 + 1 / np.log2(61)) / 4)
    assert metrics.mrr == pytest.approx((1 + 1 / 3 + 1 / 60) / 4)
    assert metrics.coverage == 0.75


def test_top_columns_leave_seen_ones_out():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    seen = np.array([[True, False, False, False], [True, True, True, False]])
    assert top_columns(scores, seen, 2).tolist() == [1, 2, 3]


@given(
    numpy_arrays(np.float64, (3, 8), elements=st.integers(-3, 3).map(float)),
    numpy_arrays(np.bool_, (3, 8)),
    st.lists(st.integers(-1, 7), min_size=3, max_size=3),
)
def test_ranks_equal_a_sort_that_puts_the_target_behind_its_equals(scores, seen, targets):
    ranks = rank_targets(scores, np.array(targets), seen)
    for row, target in enumerate(targets):
        if target < 0 or seen[row, target]:
            assert ranks[row] == MISSED
            continue
        unseen = [column for column in range(8) if not seen[row, column]]
        order = sorted(unseen, key=lambda c: (-scores[row, c], c == target))
        assert ranks[row] == order.index(target) + 1


@pytest.fixture
def three_users():
    """Vocabulary 10, 20, 30; users: 10 20 10 20 | 20 30 | (unknown) 10."""
    offsets = np.array([0, 4, 6, 8])
    article_ids = np.array([10, 20, 10, 20, 20, 30, 99, 10])
    repeats = find_repeats(article_ids, offsets)
    return PreparedArrays(
        vocabulary=np.array([10, 20, 30]),
        article_views=np.array([3, 3, 1]),
        region_vocabulary=np.array([], np.int64),
        offsets=offsets,
        articles=np.array([1, 2, 1, 2, 2, 3, 0, 1], np.int32),
        article_ids=article_ids,
        regions=np.zeros(8, np.int32),
        until_again=repeats.until_again,
        distinct=repeats.distinct,
        targets=np.array([10, 10, 20]),
        target_regions=np.full(3, -1),
    )


def test_popularity_scores_are_the_views(three_users):
    scores = PopularityBaseline(three_users).scores(np.arange(2))
    assert scores.tolist() == [[3, 3, 1], [3, 3, 1]]


def test_transitions_count_successions_and_fall_back_to_popularity(three_users):
    scores = TransitionsBaseline(three_users).scores(np.arange(3))
    # After 20 came 10 once and 30 once; nothing came after 30; after 10 came 20 twice.
    assert np.floor(scores).tolist() == [[1, 0, 1], [0, 0, 0], [0, 2, 0]]
    assert (scores % 1).tolist() == [[0.75, 0.75, 0.25]] * 3
