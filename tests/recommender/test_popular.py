"""Popular lists: the first that pass, however long the list is."""

import numpy as np
import pytest

from recommender import popular
from recommender.domain import AttributeFilter
from recommender.popular import PopularArticles, PopularList


def of_regions(count, regions, seed=1):
    random = np.random.default_rng(seed)
    ids = random.permutation(10 * count)[:count]
    views = np.arange(count, 0, -1, dtype=np.float32)
    return PopularList(ids, views, {"region": random.integers(regions, size=count)})


@pytest.mark.parametrize("seed", range(20))
def test_head_and_rest_answer_what_the_whole_list_does(monkeypatch, seed):
    monkeypatch.setattr(popular, "_HEAD", 16)
    random, listed = np.random.default_rng(seed), of_regions(100, 5, seed)
    limit, negated = int(random.integers(1, 40)), bool(seed % 2)
    values = tuple(random.integers(6, size=2).tolist())
    out = random.choice(listed.ids, int(random.integers(60)), replace=False)
    for filters in ((), (AttributeFilter("region", values, negated),)):
        passes = [
            (int(article), float(views))
            for article, views, region in zip(
                listed.ids, listed.views, listed.attributes["region"], strict=True
            )
            if article not in out and (not filters or (region in values) != negated)
        ]
        found = listed.ranking(limit, out, filters)
        assert list(zip(found.ids.tolist(), found.scores.tolist(), strict=True)) == passes[:limit]


def test_what_comes_after_the_head_fills_a_page():
    size = popular._HEAD * 2
    region = np.zeros(size, np.int64)
    region[[5, popular._HEAD + 1, size - 1]] = 3
    ids = np.arange(size)
    lists = PopularArticles(PopularList(ids, -ids.astype(np.float32), {"region": region}), {})
    only = (AttributeFilter("region", (3,), negated=False),)
    nothing = np.zeros(0, np.int64)
    assert lists.ranking(9, nothing, only).ids.tolist() == [5, popular._HEAD + 1, size - 1]
    assert lists.ranking(2, np.array([5]), only).ids.tolist() == [popular._HEAD + 1, size - 1]
