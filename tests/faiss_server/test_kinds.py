"""Indexes of other kinds than plain lists: built, tuned, written, served."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from faiss_server import article_index
from faiss_server.article_index import article_index_of, read_index_kind
from faiss_server.attributes import Attributes, Matching
from faiss_server.build import (
    BuildError,
    Goal,
    build_index,
    search_file,
    tune_index,
    write_index,
)
from faiss_server.curve_page import curve_page
from faiss_server.index_kind import IndexKind
from faiss_server.index_layout import kinds_of
from faiss_server.scan import scan
from faiss_server.search import Searcher, SearchQuery
from faiss_server.two_levels import centres_in_two_levels

KINDS = [
    "IVF16,SQ8",
    "IVF16,SQ4,RFlat",
    "RR8,IVF16,PQ4x4,RFlat",
    "IVF16(IVF4,Flat),Flat",
    "RR8,IVF16(IVF4,Flat),SQ8",
    "OPQ4,IVF16,SQ4,Refine(SQfp16)",
    "IVF16,PQ8x4fs,Refine(SQfp16)",
    "RR8,IVF16(IVF4,Flat),PQ4x4fsr,RFlat",
]


def made(count, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, 8))
    points = centres[random.integers(20, size=count)] + 0.5 * random.normal(size=(count, 8))
    return points.astype(np.float32)


VECTORS = made(3000, 1)
IDS = np.random.default_rng(5).permutation(10**9 + np.arange(3000))
QUERIES = made(200, 2)


@pytest.fixture(scope="module", params=KINDS)
def built(request):
    return build_index(
        VECTORS, IDS, QUERIES[:100], held_out=QUERIES[100:], k=20, recall_target=0.9,
        spec=request.param,
    )  # fmt: skip


@pytest.fixture(scope="module")
def opened(built, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "items.faiss"
    write_index(built, path)
    return article_index_of(read_index_kind(path), path, built.info.refine_factor)


def exact(query, k, kept=None):
    scores = VECTORS @ query
    if kept is not None:
        scores = np.where(kept, scores, -np.inf)
    return IDS[np.argsort(-scores)[:k]]


def test_what_is_served_finds_what_was_promised(built, opened):
    positions, scores = opened.nearest(QUERIES[100:], 20, built.info.nprobe)
    found = opened.article_ids[positions]
    shares = [
        np.isin(row, exact(q, 20)).mean() for row, q in zip(found, QUERIES[100:], strict=True)
    ]
    assert np.mean(shares) == pytest.approx(built.info.recall_at_200, abs=0.01)
    assert built.info.recall_at_200 >= 0.88
    assert (np.diff(scores, axis=1) <= 0).all()


def test_articles_are_excluded_and_made_up_for(built, opened):
    searcher = Searcher(opened, Attributes({}, len(opened)), built.info.nprobe)
    for excluded in (exact(QUERIES[0], 30), exact(QUERIES[0], 1000)):
        result = searcher.search(SearchQuery(QUERIES[:1], 2500, 1, [excluded]))
        assert result.counts.tolist() == [min(2500, 3000 - excluded.size)]
        assert not np.isin(result.article_ids, excluded).any()
        assert len(set(result.article_ids.tolist())) == result.article_ids.size


@pytest.mark.parametrize("count", [10, 200])
def test_the_nearest_of_the_others_are_found_where_the_nearest_are_excluded(built, opened, count):
    searcher = Searcher(opened, Attributes({}, len(opened)), built.info.nprobe)
    shares = []
    for query in QUERIES[100:150]:
        excluded = exact(query, count)
        result = searcher.search(SearchQuery(query[None], 20, opened.lists, [excluded]))
        stored = opened.vectors_at(opened.positions_of(result.article_ids))
        np.testing.assert_allclose(result.scores, stored @ query, rtol=0.02, atol=0.02)
        assert (np.diff(result.scores) <= 0).all()
        assert not np.isin(result.article_ids, excluded).any()
        shares.append(np.isin(result.article_ids, exact(query, count + 20)).mean())
    assert np.mean(shares) >= 0.85


@pytest.mark.parametrize("count", [0, 10, 1000])
def test_a_scan_by_parts_is_exact_for_the_vectors_as_they_are_stored(opened, count, monkeypatch):
    monkeypatch.setattr(article_index, "_CODES_AT_ONCE", 200)
    monkeypatch.setattr(article_index, "_FINER_AT_ONCE", 200)
    stored = opened.vectors_at(np.arange(len(opened)))
    everything = Matching.of(np.ones(len(opened), np.bool_))
    for query in QUERIES[100:110]:
        scores = stored @ query
        excluded = np.sort(np.argsort(-scores)[:count])
        expected = np.sort(np.delete(scores, excluded))[::-1][:50]
        *earlier, best = scan(opened, everything, query, 50, excluded)
        assert len(earlier) >= 7  # a list may hold more than 200
        assert len(set(best.tolist())) == 50
        assert not np.isin(best, excluded).any()
        # Sums in another order differ in the last bits.
        np.testing.assert_allclose(scores[best], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("codes", ["SQ8_direct", "SQ8_direct_signed", "SQtq4", "SQ8,Refine(SQtq4)"])
def test_codes_that_no_server_takes_are_refused_before_the_build(codes):
    with pytest.raises(BuildError, match="is not served: that is"):
        build_index(VECTORS, IDS, QUERIES[:100], k=20, spec=f"IVF16,{codes}")


@pytest.mark.parametrize("codes", ["SQ4", "SQ6", "SQ8", "SQfp16", "SQbf16", "SQ8,Refine(SQbf16)"])
def test_codes_of_whole_values_are_served(codes):
    assert "IwSq" in kinds_of(f"IVF16,{codes}")


def test_a_file_that_servers_would_refuse_is_not_left(built, tmp_path):
    path = tmp_path / "items.faiss"
    index = faiss.clone_index(built.index)
    index.metric_type = faiss.METRIC_L2
    with pytest.raises(BuildError, match=r"servers would refuse it: .* not the inner product"):
        write_index(replace(built, index=index), path)
    assert list(tmp_path.iterdir()) == []


def test_stored_vectors_are_those_of_their_articles(built, opened):
    found = opened.vectors_at(opened.positions_of(IDS))
    close = {"Flat": 1e-5, "Refine(SQfp16)": 2e-3}.get(built.info.type.split(",")[-1], 0.4)
    np.testing.assert_allclose(found, VECTORS, atol=close)


def test_a_search_of_the_file_answers_what_a_server_answers(tmp_path):
    """Also where lists of centres are searched for the lists, the more the more are probed."""
    deep = build_index(
        VECTORS, IDS, QUERIES[:100], held_out=QUERIES[100:], k=20, recall_target=0.99,
        spec="IVF300(IVF30,Flat),Flat",
    )  # fmt: skip
    path = tmp_path / "items.faiss"
    write_index(deep, path)
    ids, scores = search_file(path, QUERIES, 20)
    index = article_index_of(read_index_kind(path), path, deep.info.refine_factor)
    positions, served = index.nearest(QUERIES, 20, deep.info.nprobe)
    np.testing.assert_array_equal(ids, index.article_ids[positions])
    np.testing.assert_array_equal(scores, served)


def test_the_curve_rises_and_has_what_was_chosen(built):
    effort = (built.info.nprobe, built.info.refine_factor)
    chosen = [p for p in built.info.curve if (p.nprobe, p.refine_factor) == effort]
    assert chosen[0].recall_at_200 == pytest.approx(built.info.recall_at_200, abs=0.02)
    for factor in {point.refine_factor for point in built.info.curve}:
        recalls = [p.recall_at_200 for p in built.info.curve if p.refine_factor == factor]
        assert (np.diff(recalls) >= -0.02).all()  # coarse codes mislead now and then
    page = curve_page(built.info)
    assert page.count("<tr") == 1 + len(built.info.curve)
    assert page.count('class="chosen"') == 1


@pytest.mark.parametrize(
    "spec",
    ["IVF16,SQ8", "IVF16(IVF4,Flat),Flat", "IVF16,SQ4,RFlat", "IVF16(IVF4,Flat),PQ8x4fsr,RFlat"],
)
def test_the_same_seed_makes_the_same_bytes_from_a_mapped_file_too(spec, tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    files = []
    for vectors, seed in ((VECTORS, 1), (mapped, 1), (mapped, 2)):
        again = build_index(vectors, IDS, QUERIES, k=20, recall_target=0.8, seed=seed, spec=spec)
        files.append(faiss.serialize_index(again.index).tobytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("HNSW8", "IndexHNSWFlat is not an IVF index; `IVF1,Flat` searches exactly"),
        ("IVF16,PQ4x4fs", r"IndexIVFPQFastScan scores too coarsely alone; put finer vectors"),
        ("IVF16,PQ4x8fs,RFlat", "spec 'IVF16,PQ4x8fs,RFlat'"),
        ("IVF16,RaBitQfs,RFlat", "does not have plain lists in memory"),
        ("PCA4,IVF16,Flat", "PCAMatrix changes inner products"),
        ("IVF600_HNSW4,Flat", r"'IVF600_HNSW4,Flat' is not served: that is IVFn or IVFn\(IVFm"),
        ("IVF16,RQ2x4", "'IVF16,RQ2x4' is not served"),
        (
            "IVF16,PQ1x4",
            r"a recall of 0.9 is not reached: .* true vectors beside them \(`,RFlat`\)",
        ),
        ("IVF5000,Flat", "3000 vectors cannot fill 5000 lists"),
        ("nonsense", "spec 'nonsense': could not parse index string nonsense"),
    ],
)
def test_what_cannot_be_served_is_not_built(spec, message):
    with pytest.raises(BuildError, match=message):
        build_index(VECTORS, IDS, QUERIES, k=20, recall_target=0.9, spec=spec)


def test_an_index_is_tuned_anew_for_another_recall(built):
    kind = IndexKind.of(built.index)
    goal = Goal(QUERIES[:100], QUERIES[100:], recall=0.5, k=20)
    less = tune_index(kind.index, VECTORS, IDS, goal)
    assert less.effort.nprobe <= built.info.nprobe
    assert kind.ivf.nprobe == less.effort.nprobe
    kind.set_defaults(built.info.nprobe, built.info.refine_factor)
    with pytest.raises(BuildError, match=r"the index has 3000 articles of 8 values"):
        tune_index(kind.index, VECTORS[:10], IDS[:10], goal)
    with pytest.raises(BuildError, match=r"lacks 1 of the 3000 ids, such as 7: give the ids"):
        tune_index(kind.index, VECTORS, np.append(IDS[1:], 7), goal)


@pytest.mark.parametrize(("points", "count"), [(50, 50), (400, 9), (3000, 77), (3000, 1)])
def test_centres_in_two_levels_are_as_many_as_asked_for_and_point_somewhere(points, count):
    centres = centres_in_two_levels(VECTORS[:points], count, 1)
    assert centres.shape == (count, 8)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(centres, centres_in_two_levels(VECTORS[:points], count, 1))
