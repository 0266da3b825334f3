"""Popular lists of a release: long enough for what filters leave of them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import popular
from pipeline.collect.sql import WEIGHT_UNITS
from pipeline.popular import write_popular

ATTRIBUTES = {"region": 4, "colour": 3}
ARTICLES = 400


def attributes_of(ids, seed=5):
    """Values from -1 on; the regions' sizes differ by far."""
    random = np.random.default_rng(seed)
    return {
        name: np.minimum(random.geometric(0.5, ids.size) - 2, count - 2)
        for name, count in ATTRIBUTES.items()
    }


@pytest.fixture
def short_lists(monkeypatch):
    monkeypatch.setattr(popular, "_MOST", 10)
    monkeypatch.setattr(popular, "_MOST_BY_VALUE", 56)  # 28 for each attribute: 7 and 9 of a value
    monkeypatch.setattr(popular, "_LEAST_OF_VALUE", 7)


def listed(tmp_path, attributes, ids):
    random = np.random.default_rng(1)
    weights = {int(a): int(w) for a, w in zip(ids, random.integers(1, 99, ids.size), strict=True)}
    rows = {"article_id": [*weights, 999_999], "weight": [*weights.values(), 10**6]}
    count = len(rows["weight"])
    views = pa.table(rows | {"region_id": random.integers(-1, 2, count), "views": [1] * count})
    pq.write_table(views, tmp_path / "views.parquet")
    write_popular([tmp_path / "views.parquet"], ids, attributes, tmp_path / "popular.npz")
    with np.load(tmp_path / "popular.npz") as file:
        return weights, {name: file[name] for name in file.files}


def best(weights, articles):
    return sorted((int(a) for a in articles), key=lambda article: (-weights[article], article))


@pytest.mark.usefixtures("short_lists")
def test_the_overall_list_holds_a_page_of_each_value_of_each_attribute(tmp_path):
    ids = np.arange(5, 5 + 3 * ARTICLES, 3)
    attributes = attributes_of(ids)
    weights, found = listed(tmp_path, attributes, ids)
    overall = found["article_ids"][found["region_ids"] == -1]
    assert overall.tolist() == best(weights, overall)
    assert overall[:10].tolist() == best(weights, ids)[:10]
    for name, page in (("region", 7), ("colour", 9)):
        for value in np.unique(attributes[name]):
            of_value = np.isin(overall, ids[attributes[name] == value])
            everything = best(weights, ids[attributes[name] == value])
            assert overall[of_value][:page].tolist() == everything[:page]
    assert len(overall) < ARTICLES / 2
    assert found["views"].dtype == np.float64
    assert found["views"][: len(overall)].tolist() == [
        weights[int(article)] / WEIGHT_UNITS for article in overall
    ]


@pytest.mark.usefixtures("short_lists")
def test_an_attribute_of_as_many_values_as_articles_takes_no_room(tmp_path):
    ids = np.arange(ARTICLES)
    _, without = listed(tmp_path, attributes_of(ids), ids)
    for number in (1, 2):
        codes = {f"id {n}": np.arange(ARTICLES) for n in range(number)}
        _, found = listed(tmp_path, codes | attributes_of(ids), ids)
        assert found["article_ids"].tolist() == without["article_ids"].tolist()
    _, alone = listed(tmp_path, codes, ids)
    assert (alone["region_ids"] == -1).sum() == 10


@pytest.mark.usefixtures("short_lists")
def test_without_attributes_all_lists_are_as_short(tmp_path):
    _, found = listed(tmp_path, {}, np.arange(ARTICLES))
    regions, sizes = np.unique(found["region_ids"], return_counts=True)
    assert (regions.tolist(), sizes.tolist()) == ([-1, 0, 1], [10, 10, 10])


def test_articles_whose_views_weigh_nothing_go_by_their_number_of_views(tmp_path):
    views = {"article_id": [1, 2, 3, 4], "region_id": [7] * 4, "views": [2, 9, 5, 1]}
    pq.write_table(pa.table(views | {"weight": [0, 0, 0, 1]}), tmp_path / "views.parquet")
    write_popular([tmp_path / "views.parquet"], np.arange(1, 5), {}, tmp_path / "popular.npz")
    with np.load(tmp_path / "popular.npz") as file:
        assert file["region_ids"].tolist() == [-1] * 4 + [7] * 4
        assert file["article_ids"].tolist() == [4, 2, 3, 1] * 2
