"""Ranks, metrics and baselines against numbers worked out by hand."""

import itertools
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from pipeline.baselines import (
    PopularityBaseline,
    Successions,
    TransitionsBaseline,
    count_successions,
)
from pipeline.metrics import MISSED, measure, rank_targets, top_columns

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


VIEWS = np.array([3, 3, 1])


def test_popularity_scores_are_the_views():
    scores = PopularityBaseline(VIEWS).scores(np.arange(2))
    assert scores.tolist() == [[3, 3, 1], [3, 3, 1]]


def test_transitions_count_successions_and_fall_back_to_popularity():
    """Users viewed 1 2 1 2 | 2 3 | 1, of the articles 1, 2 and 3."""
    successions = Successions(np.array([1, 2, 1, 2]), np.array([2, 1, 2, 3]), 3)
    scores = TransitionsBaseline(successions, VIEWS, np.array([2, 3, 1, 0])).scores(np.arange(4))
    # After 2 came 1 once and 3 once; nothing came after 3; after 1 came 2 twice; 0 knows nothing.
    assert np.floor(scores).tolist() == [[1, 0, 1], [0, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert (scores % 1).tolist() == [[0.75, 0.75, 0.25]] * 4


def test_successions_are_read_off_the_examples(tiny_run):
    """Against the views themselves: two known ones, one after the other, of one user."""
    prepared, collected = tiny_run.result.prepared, tiny_run.result.collected
    articles, expected = prepared.graph.articles(), Counter()
    for views in pq.read_table(collected.histories[0])["article_ids"].to_pylist():
        known = [i for i in articles.indices(np.array(views[:-1], np.int64)).tolist() if i]
        expected.update(itertools.pairwise(known))
    asked = np.array([0, 1, 3, 4, 1])
    found = count_successions(prepared, asked)
    for former in range(len(articles.ids) + 1):
        latter, counts = found.after(former)
        wanted = {b: n for (a, b), n in expected.items() if a == former and a in asked}
        assert dict(zip(latter.tolist(), counts.tolist(), strict=True)) == wanted
