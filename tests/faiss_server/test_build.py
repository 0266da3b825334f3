"""Building an index: recall, the choice of nprobe, and what is refused."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_server.build import (
    BuildError,
    build_index,
    exact_top_k,
    list_count,
    search_file,
    write_index,
)


def clustered(count, dimension=16, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, dimension))
    points = centres[random.integers(20, size=count)] + 0.4 * random.normal(size=(count, dimension))
    return points.astype(np.float32)


@pytest.fixture(scope="module")
def data():
    vectors = clustered(6000)
    return vectors, np.random.default_rng(5).permutation(10**9 + np.arange(6000)), clustered(300)


@pytest.fixture(scope="module")
def built(data):
    return build_index(*data, recall_target=0.95)


def recalls(built, data, nprobe, k=200):
    vectors, ids, queries = data
    built.index.nprobe, kept = nprobe, built.index.nprobe
    _, found = built.index.search(queries, k)
    built.index.nprobe = kept
    exact = ids[exact_top_k(vectors, queries, k)]
    shares = [np.isin(a, b).mean() for a, b in zip(found, exact, strict=True)]
    return np.array(shares)


def bound(shares):
    return shares.mean() - 2 * shares.std(ddof=1) / np.sqrt(len(shares))


def test_nprobe_is_the_smallest_that_surely_reaches_the_target(built, data):
    assert 1 < built.info.nprobe < built.info.lists
    assert bound(recalls(built, data, built.info.nprobe)) >= 0.95
    assert bound(recalls(built, data, built.info.nprobe - 1)) < 0.95


def test_the_stated_recall_is_the_measured_one(built, data):
    assert built.info.recall_at_200 == pytest.approx(recalls(built, data, built.info.nprobe).mean())


def test_a_written_index_has_its_own_ids_and_nprobe(built, data, tmp_path):
    vectors, ids, queries = data
    write_index(built, tmp_path / "new" / "items.faiss")
    found, scores = search_file(tmp_path / "new" / "items.faiss", queries[:5], 10)
    expected_scores, expected = built.index.search(queries[:5], 10)
    assert np.array_equal(found, expected)
    assert np.array_equal(scores, expected_scores)
    rows = {article: row for row, article in enumerate(ids.tolist())}
    inner_products = [
        [vectors[rows[a]] @ q for a in row] for row, q in zip(found, queries[:5], strict=True)
    ]
    assert np.allclose(scores, inner_products, atol=1e-4)


def test_an_index_that_finds_no_room_leaves_what_was_there(built, tmp_path):
    path = tmp_path / "items.faiss"
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(BuildError, match=r"items\.faiss: cannot be written: .*File too large"):
            write_index(built, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_index_leaves_out_what_is_excluded(built, data, tmp_path):
    """As over-fetching and dropping would; all of a nearest list but one make it look further."""
    vectors, ids, queries = data
    write_index(built, tmp_path / "items.faiss")
    plain, _ = search_file(tmp_path / "items.faiss", queries[:3], 60)
    excluded = [plain[0, :50], plain[1, ::2], np.zeros(0, np.int64)]
    found, scores = search_file(tmp_path / "items.faiss", queries[:3], 10, excluded)
    assert found[0].tolist() == plain[0, 50:].tolist()
    assert found[1].tolist() == plain[1, 1::2][:10].tolist()
    assert found[2].tolist() == plain[2, :10].tolist()
    assert (np.diff(scores, axis=1) <= 0).all()
    nearly_all = [ids[exact_top_k(vectors, queries[:1], len(ids) - 5)[0]]]
    found, _ = search_file(tmp_path / "items.faiss", queries[:1], 10, nearly_all)
    assert (found[0] >= 0).sum() == 5
    assert not np.isin(found[0], nearly_all[0]).any()


def test_the_same_seed_builds_the_same_index(built, data):
    again = build_index(*data, recall_target=0.95)
    asked = {"nprobe", "recall_at_200"}
    assert again.info.model_dump(include=asked) == built.info.model_dump(include=asked)
    assert built.info.type == f"IVF{built.info.lists},Flat"


def test_a_full_recall_target_probes_until_nothing_is_missed(data):
    vectors, ids, queries = data
    full = build_index(vectors[:400], ids[:400], queries[:50], recall_target=1.0)
    assert full.info.recall_at_200 == 1.0


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 5))
def test_any_number_of_vectors_can_be_indexed(count, seed):
    vectors = clustered(count, 4, seed)
    small = build_index(vectors, np.arange(count), vectors[:3], k=200)
    assert small.index.ntotal == count
    assert small.info.recall_at_200 >= 0.99
    assert 1 <= small.info.nprobe <= small.info.lists


@given(st.integers(1, 10**7))
def test_every_list_has_enough_points_to_train_on(count):
    lists = list_count(count)
    assert lists >= 1
    assert lists == 1 or count >= 39 * lists
    assert lists <= max(1, round(4 * count**0.5))


@given(st.integers(1, 12), st.integers(0, 3))
def test_exact_search_equals_a_full_sort(k, seed):
    vectors, queries = clustered(12, 3, seed), clustered(70, 3, seed + 10)
    scores = queries @ vectors.T
    found = exact_top_k(vectors, queries, k)
    best = -np.sort(-scores, axis=1)[:, :k]
    assert np.allclose(np.take_along_axis(scores, found, axis=1), best, atol=1e-5)


GOOD = clustered(50, 4)
IDS = np.arange(50)
BROKEN = GOOD.copy()
BROKEN[7, 2] = np.nan


@pytest.mark.parametrize(
    ("vectors", "ids", "queries", "options", "message"),
    [
        (BROKEN, IDS, GOOD, {}, "vectors: row 7 holds NaN"),
        (GOOD, IDS, BROKEN, {}, "queries: row 7 holds NaN"),
        (GOOD, np.where(IDS == 9, 8, IDS), GOOD, {}, "id 8 is given to more than one"),
        (GOOD, IDS - 1, GOOD, {}, "ids must be 0 or more; row 0 is -1"),
        (GOOD, IDS[:-1], GOOD, {}, r"ids must be int64\[50\]"),
        (GOOD, IDS.astype(np.int32), GOOD, {}, "they are int32"),
        (GOOD.astype(float), IDS, GOOD, {}, "vectors must be float32"),
        (GOOD[0], IDS, GOOD, {}, "vectors must be float32"),
        (GOOD[:0], IDS[:0], GOOD, {}, "at least one row"),
        (GOOD, IDS, GOOD[:, :3].copy(), {}, "queries have dimension 3, vectors 4"),
        (GOOD, IDS, GOOD[:0], {}, "queries must be float32"),
        (GOOD, IDS, GOOD, {"k": 0}, "k must be at least 1"),
        (GOOD, IDS, GOOD, {"recall_target": 1.5}, "recall_target"),
    ],
)
def test_what_cannot_make_an_index_is_refused(vectors, ids, queries, options, message):
    with pytest.raises(BuildError, match=message):
        build_index(vectors, ids, queries, **options)


def test_a_hard_group_of_queries_does_not_hide_behind_an_easy_one():
    random = np.random.default_rng(5)
    vectors = random.normal(size=(3_000, 16)).astype(np.float32)
    ids = np.arange(len(vectors))
    easy = np.repeat(vectors[:1], 190, axis=0)
    hard = random.normal(size=(190, 16)).astype(np.float32)
    queries = np.concatenate([easy, hard])
    pooled = build_index(vectors, ids, queries, recall_target=0.9, k=50)
    grouped = build_index(vectors, ids, queries, query_groups=2, recall_target=0.9, k=50)
    assert grouped.info.nprobe > pooled.info.nprobe
    stated = build_index(vectors, ids, hard, recall_target=0.9, k=50)
    assert grouped.info.nprobe >= stated.info.nprobe
