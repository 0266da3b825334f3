import gc
import io
import pickle
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.loaded import LoadedRelease, index_bytes, load_release
from faiss_server.search import SearchQuery
from releases.layout import ATTRIBUTES_FILE, INDEX_FILE, POPULAR_FILE
from releases.manifest import Manifest
from tests.faiss_server.making import Made, described_anew, make_release

RELEASE = 1_700_000_010


def refusal(made: Made, manifest: Manifest | None = None) -> ReleaseRefusedError:
    with pytest.raises(ReleaseRefusedError) as caught:
        load_release(manifest or made.manifest, made.root)
    return caught.value


def test_a_sound_release_is_loaded_with_all_its_parts(loaded: LoadedRelease, made: Made) -> None:
    assert len(loaded.index) == made.manifest.article_count == 700
    assert loaded.index.dimension == 8
    assert loaded.index.lists == 16
    assert list(loaded.popular) == [None, 3, 5]
    assert index_bytes(made.manifest) == (made.home / INDEX_FILE).stat().st_size


def test_popular_lists_carry_the_attributes_of_their_articles(
    loaded: LoadedRelease, made: Made
) -> None:
    popular = loaded.popular[5]
    last, stranger = popular.article_ids.tolist()
    assert last == made.article_ids.max()
    assert stranger == 5
    of_last = {name: column[made.article_ids.argmax()] for name, column in made.attributes.items()}
    assert popular.attributes.keys() == made.attributes.keys()
    for name, values in popular.attributes.items():
        assert values.tolist() == [of_last[name], -1]
    assert popular.views.tolist() == [2, 1]


def test_a_release_without_attributes_is_sound(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    np.savez(made.home / ATTRIBUTES_FILE, article_ids=np.empty(0, np.int64))
    assert load_release(described_anew(made), tmp_path).popular[None].attributes == {}


@pytest.mark.parametrize("name", [INDEX_FILE, ATTRIBUTES_FILE, POPULAR_FILE])
def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    made = make_release(tmp_path, RELEASE)
    whole = (made.home / name).read_bytes()
    (made.home / name).write_bytes(whole[: len(whole) // 2])
    error = refusal(made)
    assert error.reason == RefusalReason.FILES
    assert f"{name}: has {len(whole) // 2} bytes, the manifest says {len(whole)}" in str(error)
    (made.home / name).unlink()
    assert "No such file" in str(refusal(made))


def test_a_manifest_without_the_index_file_is_refused(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    (made.home / INDEX_FILE).unlink()
    assert "lists no items.faiss" in str(refusal(made, described_anew(made)))


@pytest.mark.parametrize("contents", [b"", b"IwFl", b"IwFl" + bytes(100)])
def test_an_unreadable_index_is_refused_in_one_line(tmp_path: Path, contents: bytes) -> None:
    made = make_release(tmp_path, RELEASE)
    (made.home / INDEX_FILE).write_bytes(contents)
    error = refusal(made, described_anew(made))
    assert error.reason == RefusalReason.FILES
    assert "items.faiss: not readable: " in str(error)
    assert "\n" not in str(error)


def test_a_cut_off_index_is_refused(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    whole = (made.home / INDEX_FILE).read_bytes()
    for size in range(0, len(whole), len(whole) // 40):
        (made.home / INDEX_FILE).write_bytes(whole[:size])
        assert refusal(made, described_anew(made)).reason == RefusalReason.FILES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"article_count": 701}, "article_count is 700, the manifest says 701"),
        (
            {"index": {"type": "IVF9,Flat", "lists": 9, "nprobe": 1, "recall_at_200": 1}},
            "index.lists is 16, the manifest says 9",
        ),
        (
            {
                "dimension": 9,
                "golden_queries": [{"vector": [0.5] * 9, "article_ids": [], "scores": []}],
            },
            "dimension is 8, the manifest says 9",
        ),
    ],
)
def test_an_index_that_the_manifest_does_not_describe_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    made = make_release(tmp_path, RELEASE)
    error = refusal(made, described_anew(made, **fields))
    assert error.reason == RefusalReason.INDEX
    assert message in str(error)


def rows_view(index: Any, number: int) -> NDArray[np.int64]:
    lists = faiss.downcast_InvertedLists(index.invlists)
    view: NDArray[np.int64] = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
    return view


def duplicate(index: Any) -> None:
    rows_view(index, 0)[0] = rows_view(index, 1)[0]


def negate(index: Any) -> None:
    rows_view(index, 0)[0] = -1


def miscount(index: Any) -> None:
    faiss.downcast_InvertedLists(index.invlists).resize(0, 1)


def use_distance(index: Any) -> None:
    index.metric_type = faiss.METRIC_L2


def forget_training(index: Any) -> None:
    index.is_trained = False


def spoil_a_vector(index: Any) -> None:
    lists = faiss.downcast_InvertedLists(index.invlists)
    faiss.rev_swig_ptr(lists.get_codes(0), 4)[:] = np.frombuffer(np.float32(np.nan), np.uint8)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (duplicate, "an article id is there twice"),
        (negate, "article id -1 is negative"),
        (miscount, "the lists do not hold the 700 that the header says"),
        (use_distance, "the metric is not the inner product"),
        (forget_training, "the index is not trained"),
        (spoil_a_vector, "reaches 699 of 700 articles: some vectors are not finite"),
    ],
)
def test_an_index_with_a_fault_is_refused(
    tmp_path: Path, prepare: Callable[[Any], None], message: str
) -> None:
    error = refusal(make_release(tmp_path, RELEASE, prepare=prepare))
    assert error.reason == RefusalReason.INDEX
    assert message in str(error)


def test_an_index_of_another_kind_is_refused(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    flat = faiss.IndexFlatIP(8)
    flat.add(made.vectors)
    faiss.write_index(flat, str(made.home / INDEX_FILE))
    error = refusal(made, described_anew(made))
    assert error.reason == RefusalReason.INDEX
    assert "items.faiss: 'IxFI' at byte 0 is none of the kinds served there" in str(error)


def swap_ids(index: Any) -> None:
    for number in range(index.nlist):
        view = rows_view(index, number)
        view[:] = view[::-1].copy()


def scale(index: Any) -> None:
    lists = faiss.downcast_InvertedLists(index.invlists)
    for number in range(index.nlist):
        size = lists.list_size(number) * 8
        faiss.rev_swig_ptr(lists.get_codes(number), size * 4).view(np.float32)[:] *= 1.01


@pytest.mark.parametrize("prepare", [swap_ids, scale])
def test_golden_queries_catch_what_looks_sound(
    tmp_path: Path, prepare: Callable[[Any], None]
) -> None:
    error = refusal(make_release(tmp_path, RELEASE, prepare=prepare))
    assert error.reason == RefusalReason.GOLDEN_QUERIES
    assert "golden_queries.0" in str(error)


def golden(made: Made) -> dict[str, Any]:
    query: dict[str, Any] = made.manifest.golden_queries[0].model_dump()
    return query


def with_golden(made: Made, query: dict[str, Any]) -> Manifest:
    return described_anew(made, golden_queries=[query])


def test_scores_within_the_tolerance_pass_and_their_ids_may_change_places(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    query = golden(made)
    ids, scores = list(query["article_ids"]), list(query["scores"])
    ids[3], ids[4] = ids[4], ids[3]
    tolerance = (scores[3] - scores[4]) / scores[0]
    swapped = query | {"article_ids": ids}
    load_release(with_golden(made, swapped | {"score_tolerance": tolerance * 1.1}), tmp_path)
    error = refusal(made, with_golden(made, swapped | {"score_tolerance": tolerance * 0.9}))
    assert "at place 3 is not expected there" in str(error)


def test_an_id_may_come_in_over_the_end_of_the_golden_list_only(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    query = golden(made)
    ids = list(query["article_ids"])
    load_release(with_golden(made, query | {"article_ids": [*ids[:-1], 77]}), tmp_path)
    error = refusal(made, with_golden(made, query | {"article_ids": [77, *ids[1:]]}))
    assert "at place 0 is not expected there" in str(error)


def test_fewer_articles_than_a_golden_query_expects_are_refused(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    ids = [*made.article_ids.tolist(), 1]
    query = golden(made) | {"article_ids": ids, "scores": [0.5] * len(ids)}
    assert "700 articles are found, 701 are expected" in str(
        refusal(made, with_golden(made, query))
    )


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


SOUND = {"region_ids": ints(-1, -1, 4), "article_ids": ints(1, 2, 1), "views": ints(9, 8, 7)}


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (POPULAR_FILE, {"region_ids": ints(-1)}, r"holds \['region_ids'\]"),
        (POPULAR_FILE, SOUND | {"views": ints(9, 8)}, "differ in length"),
        (POPULAR_FILE, SOUND | {"views": ints(8, 9, 7)}, "region -1 is not ordered by views"),
        (POPULAR_FILE, SOUND | {"views": ints(9, 8, -7)}, "is negative"),
        (POPULAR_FILE, SOUND | {"views": np.ones(3, "f4")}, r"views is float32\[3\], not int64"),
        (POPULAR_FILE, SOUND | {"views": np.array([np.nan, 1, 1])}, "is not finite"),
        (POPULAR_FILE, SOUND | {"article_ids": np.ones(3)}, r"article_ids is float64\[3\]"),
        (POPULAR_FILE, SOUND | {"views": np.array([{}] * 3)}, "allow_pickle=False"),
        (POPULAR_FILE, SOUND | {"article_ids": ints(1, 1, 1)}, "region -1 lists an article twice"),
        (POPULAR_FILE, SOUND | {"region_ids": ints(4, -1, -1)}, "does not come first"),
        (POPULAR_FILE, SOUND | {"region_ids": ints(-1, 4, -1)}, "region -1 are not together"),
        (POPULAR_FILE, {name: ints() for name in SOUND}, "does not come first"),
        (ATTRIBUTES_FILE, {"attribute:a": ints(1)}, "article_ids is missing"),
        (ATTRIBUTES_FILE, {"article_ids": ints(2, 1)}, "not ascending"),
        (ATTRIBUTES_FILE, {"article_ids": ints(1, 1)}, "not ascending"),
        (ATTRIBUTES_FILE, {"article_ids": ints(-1, 1)}, "negative"),
        (ATTRIBUTES_FILE, {"article_ids": ints(1), "a": ints(1)}, "'a' is not called attribute:"),
        (ATTRIBUTES_FILE, {"article_ids": ints(1), "attribute:a": ints()}, "differ in length"),
    ],
)
def test_malformed_tables_are_refused(
    tmp_path: Path, name: str, arrays: dict[str, NDArray[Any]], message: str
) -> None:
    made = make_release(tmp_path, RELEASE)
    np.savez(made.home / name, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ReleaseRefusedError, match=message) as caught:
        load_release(described_anew(made), tmp_path)
    assert caught.value.reason == RefusalReason.TABLES


def test_numbers_of_views_may_be_fractions(tmp_path: Path) -> None:
    made = make_release(tmp_path, RELEASE)
    views = np.array([9.5, 8.25, 0.125])
    np.savez(made.home / POPULAR_FILE, **SOUND | {"views": views})
    loaded = load_release(described_anew(made), tmp_path)
    assert loaded.popular[None].views.tolist() == [9.5, 8.25]
    assert loaded.popular[4].views.tolist() == [0.125]


def one_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, ints(1))
    return stream.getvalue()


@pytest.mark.parametrize("name", [POPULAR_FILE, ATTRIBUTES_FILE])
def test_a_table_that_grows_when_it_is_read_is_refused(tmp_path: Path, name: str) -> None:
    made = make_release(tmp_path, RELEASE)
    np.savez_compressed(made.home / name, article_ids=np.zeros(1_000_000, np.int64))
    assert "its columns are compressed" in str(refusal(made, described_anew(made)))


@pytest.mark.parametrize("name", [POPULAR_FILE, ATTRIBUTES_FILE])
def test_a_table_that_states_more_than_it_holds_is_refused(tmp_path: Path, name: str) -> None:
    made = make_release(tmp_path, RELEASE)
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(made.home / name, "w") as archive:
        archive.writestr("article_ids.npy", stream.getvalue())
    assert refusal(made, described_anew(made)).reason == RefusalReason.TABLES


@pytest.mark.parametrize(
    "contents", [b"", b"PK\x03\x04 no archive", pickle.dumps({"a": 1}), one_array()]
)
@pytest.mark.parametrize("name", [POPULAR_FILE, ATTRIBUTES_FILE])
def test_tables_that_are_no_archives_are_refused(
    tmp_path: Path, name: str, contents: bytes
) -> None:
    made = make_release(tmp_path, RELEASE)
    (made.home / name).write_bytes(contents)
    assert refusal(made, described_anew(made)).reason == RefusalReason.TABLES


def test_memory_goes_with_the_last_reference(made: Made) -> None:
    loaded = load_release(made.manifest, made.root)
    loaded.searcher.search(SearchQuery(np.zeros((1, 8), np.float32), 5))
    gone = threading.Event()
    watched = weakref.ref(loaded, lambda _: gone.set())
    of_index = weakref.ref(loaded.index)
    gc.disable()
    try:
        del loaded
        assert gone.is_set()
        assert of_index() is None
    finally:
        gc.enable()
    assert watched() is None
