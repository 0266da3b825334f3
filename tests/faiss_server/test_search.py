from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faiss_server.attributes import AttributeFilter, Attributes
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.plain_search import MOST_EXCLUDED
from faiss_server.search import Searcher, SearchQuery, SearchResult
from service_runtime.errors import InvalidRequestError
from tests.faiss_server.making import NPROBE, Made, exact_top, make_release


def rows_of(result: SearchResult) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    ends = np.cumsum(result.counts)
    return list(
        zip(
            np.split(result.article_ids, ends[:-1]), np.split(result.scores, ends[:-1]), strict=True
        )
    )


def assert_exact(made: Made, query: SearchQuery, result: SearchResult) -> None:
    excluded = query.excluded_ids or [np.empty(0, np.int64)] * len(query.vectors)
    rows = rows_of(result)
    assert len(rows) == len(query.vectors)
    for vector, without, (ids, scores) in zip(query.vectors, excluded, rows, strict=True):
        expected_ids, expected = exact_top(made, vector, query.k, without, query.filters)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        np.testing.assert_array_equal(ids, expected_ids)


def random_vectors(seed: int, rows: int, dimension: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)


FILTERS = st.frozensets(
    st.builds(
        AttributeFilter,
        st.sampled_from(["language", "author", "shelf"]),
        st.frozensets(st.integers(-1, 6), min_size=1),
        st.booleans(),
    ),
    max_size=3,
)


@given(data=st.data(), seed=st.integers(0, 1000), rows=st.integers(1, 4), filters=FILTERS)
@settings(max_examples=60, deadline=None)
def test_with_all_lists_a_search_is_exact_whatever_is_excluded_and_filtered(
    made: Made,
    loaded: LoadedRelease,
    data: st.DataObject,
    seed: int,
    rows: int,
    filters: frozenset[AttributeFilter],
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 700), min_size=rows, max_size=rows))
    random = np.random.default_rng(seed)
    excluded = [random.choice(made.article_ids, size) for size in sizes]
    k = data.draw(st.integers(1, 900))
    query = SearchQuery(random_vectors(seed, rows), k, 16, excluded, filters)
    result = loaded.searcher.search(query)
    assert_exact(made, query, result)
    assert not result.widened


@given(data=st.data(), seed=st.integers(0, 1000), filters=FILTERS, k=st.integers(1, 6000))
@settings(max_examples=60, deadline=None)
def test_with_few_lists_as_many_articles_as_there_are_come_back_and_all_meet_the_conditions(
    large: Made,
    large_loaded: LoadedRelease,
    data: st.DataObject,
    seed: int,
    filters: frozenset[AttributeFilter],
    k: int,
) -> None:
    random = np.random.default_rng(seed)
    sizes = data.draw(st.lists(st.sampled_from([0, 5, 500, 3000, 6000]), min_size=1, max_size=3))
    excluded = [random.choice(large.article_ids, size, replace=False) for size in sizes]
    vectors = random_vectors(seed, len(sizes))
    nprobe = data.draw(st.sampled_from([None, 1, 10]))
    query = SearchQuery(vectors, k, nprobe, excluded, filters)
    for vector, without, (ids, scores) in zip(
        vectors, excluded, rows_of(large_loaded.searcher.search(query)), strict=True
    ):
        allowed, of_allowed = exact_top(large, vector, 40_000, without, filters)
        assert len(ids) == min(k, len(allowed))
        assert len(set(ids.tolist())) == len(ids)
        expected = dict(zip(allowed.tolist(), of_allowed.tolist(), strict=True))
        assert scores.tolist() == pytest.approx([expected[i] for i in ids.tolist()], abs=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_the_manifests_nprobe_is_the_default(large: Made, large_loaded: LoadedRelease) -> None:
    index: Any = faiss.read_index(str(large.home / "items.faiss"))
    vectors = random_vectors(1, 20)
    index.nprobe = NPROBE
    scores, ids = index.search(vectors, 10)
    result = large_loaded.searcher.search(SearchQuery(vectors, 10))
    np.testing.assert_array_equal(result.article_ids, ids.ravel())
    np.testing.assert_array_equal(result.scores, scores.ravel())
    assert not result.widened


def test_the_default_nprobe_keeps_its_recall_under_filters(
    large: Made, large_loaded: LoadedRelease
) -> None:
    def recall(filters: frozenset[AttributeFilter]) -> float:
        vectors = random_vectors(2, 50)
        result = large_loaded.searcher.search(SearchQuery(vectors, 20, 16, (), filters))
        shares = [
            np.isin(exact_top(large, vector, 20, None, filters)[0], ids).mean()
            for vector, (ids, _) in zip(vectors, rows_of(result), strict=True)
        ]
        return float(np.mean(shares))

    unfiltered = recall(frozenset())
    assert unfiltered > 0.6
    half = AttributeFilter("language", frozenset({0, 1}), negated=True)
    assert recall(frozenset({half})) > unfiltered
    few = AttributeFilter("author", frozenset({7}), negated=False)
    assert recall(frozenset({few})) == 1


@pytest.mark.parametrize("excluded", [0, 300, 4000])
def test_too_little_in_the_lists_asked_for_is_made_up_from_others_and_said(
    large: Made, large_loaded: LoadedRelease, excluded: int
) -> None:
    vectors = random_vectors(3, 2)
    ids, _ = exact_top(large, vectors[0], excluded)
    query = SearchQuery(vectors, 1000, 1, [ids, np.empty(0, np.int64)])
    result = large_loaded.searcher.search(query)
    assert result.counts.tolist() == [1000, 1000]
    assert result.widened


@pytest.mark.parametrize("size", [MOST_EXCLUDED - 1, MOST_EXCLUDED, MOST_EXCLUDED + 1])
def test_dropping_and_selecting_excluded_articles_answer_the_same(
    large: Made, large_loaded: LoadedRelease, size: int
) -> None:
    vector = random_vectors(4, 1)
    best, _ = exact_top(large, vector[0], size)
    query = SearchQuery(vector, 100, 64, [best])
    assert_exact(large, query, large_loaded.searcher.search(query))


def test_rows_of_one_batch_answer_what_they_answer_alone(large_loaded: LoadedRelease) -> None:
    vectors = random_vectors(5, 30)
    together = rows_of(large_loaded.searcher.search(SearchQuery(vectors, 50)))
    for vector, (ids, scores) in zip(vectors, together, strict=True):
        alone = large_loaded.searcher.search(SearchQuery(vector[None], 50))
        np.testing.assert_array_equal(ids, alone.article_ids)
        np.testing.assert_array_equal(scores, alone.scores)


def test_equal_scores_are_in_order_of_article_id(loaded: LoadedRelease, made: Made) -> None:
    zero = np.zeros((1, 8), np.float32)
    result = loaded.searcher.search(SearchQuery(zero, 700, 16))
    np.testing.assert_array_equal(result.article_ids, np.sort(made.article_ids))
    listed = AttributeFilter("shelf", frozenset({1}), negated=False)
    few = loaded.searcher.search(SearchQuery(zero, 700, 16, (), frozenset({listed})))
    np.testing.assert_array_equal(
        few.article_ids, np.sort(made.article_ids[made.attributes["shelf"] == 1])
    )


def test_articles_without_the_attribute_have_the_value_minus_one(
    loaded: LoadedRelease, made: Made
) -> None:
    without = AttributeFilter("author", frozenset({-1}), negated=False)
    query = SearchQuery(random_vectors(6, 1), 700, 16, (), frozenset({without}))
    found = loaded.searcher.search(query).article_ids
    assert set(found) == set(made.article_ids[made.attributes["author"] == -1])


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "IVF16,PQ4x4np", "IVF16,SQfp16"])
def test_compressed_indexes_are_filtered_and_widened_alike(tmp_path: Path, factory: str) -> None:
    release = make_release(tmp_path, 1_700_000_002, factory=factory)
    loaded = load_release(release.manifest, tmp_path)
    vectors = random_vectors(7, 3)
    few = AttributeFilter("language", frozenset({1}), negated=False)
    exact = loaded.searcher.search(SearchQuery(vectors, 700, 16))
    filtered = loaded.searcher.search(SearchQuery(vectors, 700, 1, (), frozenset({few})))
    scores = dict(zip(*(part.tolist() for part in rows_of(exact)[0]), strict=True))
    for article_id, score in zip(*rows_of(filtered)[0], strict=True):
        assert scores[int(article_id)] == pytest.approx(float(score), abs=1e-4)
    assert filtered.counts.tolist() == [(release.attributes["language"] == 1).sum()] * 3


@pytest.mark.parametrize("filters", [frozenset(), {"language"}])
def test_vectors_too_large_to_score_are_refused(
    loaded: LoadedRelease, filters: frozenset[str]
) -> None:
    conditions = frozenset(AttributeFilter(n, frozenset({1}), negated=False) for n in filters)
    huge = np.full((1, 8), 3e38, np.float32)
    with pytest.raises(InvalidRequestError, match=r"vectors: .* overflow"):
        loaded.searcher.search(SearchQuery(huge, 700, 1, (), conditions))


@pytest.mark.parametrize("nprobe", [0, -1, 17])
def test_nprobe_must_be_one_to_the_number_of_lists(loaded: LoadedRelease, nprobe: int) -> None:
    with pytest.raises(InvalidRequestError, match=rf"nprobe: {nprobe} is not 1 to 16"):
        loaded.searcher.search(SearchQuery(random_vectors(8, 1), 1, nprobe))


def test_stored_vectors_are_found_by_position(loaded: LoadedRelease, made: Made) -> None:
    positions = loaded.index.positions_of(made.article_ids)
    np.testing.assert_array_equal(loaded.index.vectors_at(positions), made.vectors)
    strangers: Any = np.array([0, made.article_ids.max() + 1, made.article_ids.min() + 1])
    assert loaded.index.positions_of(strangers).tolist() == [-1, -1, -1]


@pytest.fixture(scope="module")
def sides(large: Made, large_loaded: LoadedRelease) -> Searcher:
    """Articles know on which side of the origin they lie: filters may be of those far away."""
    order = np.argsort(large.article_ids)
    columns = {"side": (large.vectors[order, 0] > 0).astype(np.int64)}
    return Searcher(large_loaded.index, Attributes(columns, len(order)), NPROBE)


def test_a_filter_of_articles_that_lie_elsewhere_keeps_its_recall(
    large: Made, sides: Searcher
) -> None:
    """The first lists fill the page, but not with the best."""
    vectors = random_vectors(9, 20)
    vectors[:, 0] = -3
    far = AttributeFilter("side", frozenset({1}), negated=False)
    result = sides.search(SearchQuery(vectors, 50, 1, (), frozenset({far})))
    kept = large.vectors[:, 0] > 0
    shares = []
    for vector, (ids, _) in zip(vectors, rows_of(result), strict=True):
        scores = np.where(kept, large.vectors @ vector, -np.inf)
        shares.append(np.isin(large.article_ids[np.argsort(-scores)[:50]], ids).mean())
    assert np.mean(shares) > 0.98
    assert result.widened
    assert not result.cut_short


def test_without_time_to_widen_what_was_found_is_answered_and_said_to_be_cut_short(
    sides: Searcher,
) -> None:
    far = AttributeFilter("side", frozenset({1}), negated=False)
    query = SearchQuery(random_vectors(10, 2), 6000, 1, (), frozenset({far}))
    result = sides.search(query, time_left=lambda: 0.0)
    assert result.cut_short
    assert (result.counts < 6000).any()
    for ids, scores in rows_of(result):
        assert len(set(ids.tolist())) == len(ids)
        assert (np.diff(scores) <= 0).all()
    assert not sides.search(query, time_left=lambda: 60.0).cut_short


@given(seed=st.integers(0, 100), k=st.integers(1, 800), data=st.data())
@settings(max_examples=40, deadline=None)
def test_articles_left_out_are_as_if_they_were_not_there(
    made: Made, loaded: LoadedRelease, seed: int, k: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    searcher = Searcher(loaded.index, Attributes({}, len(loaded.index)), NPROBE)
    gone = random.choice(made.article_ids, data.draw(st.sampled_from([1, 20, 300, 700])), False)
    searcher.leave_out(np.concatenate([gone, [5]]))
    vector = random_vectors(seed, 1)
    excluded = random.choice(made.article_ids, data.draw(st.sampled_from([0, 30, 600])), False)
    result = searcher.search(SearchQuery(vector, k, 16, [excluded]))
    expected, _ = exact_top(made, vector[0], k, np.concatenate([gone, excluded]))
    assert result.article_ids.tolist() == expected.tolist()
    searcher.leave_out(np.empty(0, np.int64))
    back = searcher.search(SearchQuery(vector, k, 16))
    assert back.article_ids.tolist() == exact_top(made, vector[0], k)[0].tolist()
