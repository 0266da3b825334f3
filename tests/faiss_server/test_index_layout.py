"""Index files that state what is not so: refused before faiss allocates or goes by it."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_server._faiss import faiss
from faiss_server.article_index import open_article_index
from faiss_server.build import build_index, write_index
from faiss_server.errors import ReleaseRefusedError
from faiss_server.index_layout import kinds_of, read_layout
from releases.manifest import Manifest
from tests.support.releases import manifest_of, tiny_release

D, N, LISTS = 8, 100, 16
KINDS = [
    "IVF16,Flat",
    "RR8,IVF16(IVF4,Flat),SQ8,Refine(SQfp16)",
    "RR8,IVF16,PQ4x4,RFlat",
    "IVF16(IVF4,Flat),PQ8x4fsr,Refine(SQfp16)",
]
IVF = 37
"""Where the fields of lists begin: after four letters and the header."""


def make(folder: Path, spec: str) -> tuple[bytes, Manifest]:
    """Answer the bytes of an index, and a manifest that describes it."""
    vectors = np.random.default_rng(1).standard_normal((N, D), dtype=np.float32)
    built = build_index(vectors, np.arange(N), vectors[:20], k=5, recall_target=0.3, spec=spec)
    write_index(built, folder / "items.faiss")
    tiny_release(folder, 1)
    manifest = manifest_of(
        folder, 1, dimension=D, article_count=N, index=built.info.model_dump(mode="json"),
        golden_queries=[{"vector": [1.0] * D, "article_ids": [1], "scores": [1.0]}],
    )  # fmt: skip
    return (folder / "items.faiss").read_bytes(), manifest


@pytest.fixture(scope="module", params=KINDS)
def sound(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Manifest]:
    return make(tmp_path_factory.mktemp("sound"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Manifest]:
    return make(tmp_path_factory.mktemp("plain"), "IVF16,Flat")


@pytest.fixture(autouse=True)
def modest() -> Iterator[None]:
    """No test takes memory that a file only claims."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    before = peak_kib()
    yield
    assert peak_kib() - before < 64 * 1024


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def outcome(folder: Path, contents: bytes, manifest: Manifest) -> str:
    """Answer why a file is refused; nothing where it is not."""
    path = folder / "items.faiss"
    path.write_bytes(contents)
    try:
        index = open_article_index(path, manifest)
    except ReleaseRefusedError as error:
        name, _, reason = str(error).partition(": ")
        return reason if name == str(path) and "\n" not in reason else f"badly told: {error!r}"
    assert (len(index), index.dimension, index.lists) == (N, D, LISTS)
    index.nearest(np.ones((1, D), np.float32), 5, LISTS)
    index.vectors_at(np.arange(N))
    return ""


def test_a_sound_file_is_what_its_factory_string_says(
    sound: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    contents, manifest = sound
    assert outcome(tmp_path, contents, manifest) == ""
    layout = read_layout(tmp_path / "items.faiss")
    assert layout.kinds == kinds_of(manifest.index.type)
    assert (layout.dimension, layout.articles, layout.lists) == (D, N, LISTS)


def test_a_sound_file_of_another_kind_than_the_manifest_says_is_refused(
    sound: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    contents, manifest = sound

    def told(factory: str) -> str:
        index = manifest.index.model_copy(update={"type": factory})
        return outcome(tmp_path, contents, manifest.model_copy(update={"index": index}))

    assert told("IVF16,SQ4").startswith("kind of index for 'IVF16,SQ4' is ")
    assert told("HNSW32").startswith("the manifest's index.type: 'HNSW32' is not served")


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (0, "4s", b"IxHN", "'IxHN' at byte 0 is none of the kinds served there"),
        (4, "<i", -8, "the dimension of IwFl is -8"),
        (4, "<i", 2**31 - 1, "the dimension of IwFl is 2147483647"),
        (4, "<i", 9, "the dimension of IxFI is 8, not 9"),
        (8, "<q", -1, "the number of vectors of IwFl is -1"),
        (8, "<q", 2**62, "the number of vectors of IwFl is 4611686018427387904"),
        (8, "<q", N + 1, "the lists do not hold the 101 that the header says"),
        (32, "B", 7, "is_trained is 7"),
        (33, "<i", 1, "the metric is not the inner product"),
        (IVF, "<Q", 2**60, "it states 1152921504606846976 lists"),
        (IVF, "<Q", 17, "the vectors in IxFI is 16, not 17"),
        (IVF + 16, "4s", b"IHNf", "'IHNf' at byte 53 is none of the kinds served there"),
        (IVF + 16 + 37, "<Q", 2**63, "the length of the centres is 9223372036854775808, not 128"),
    ],
)
def test_a_strange_header_is_refused_with_the_field(
    plain: tuple[bytes, Manifest], tmp_path: Path, at: int, form: str, value: object, message: str
) -> None:
    contents, manifest = plain
    changed = bytearray(contents)
    struct.pack_into(form, changed, at, value)
    assert message in outcome(tmp_path, bytes(changed), manifest)


def test_a_direct_map_of_the_articles_is_taken_and_not_gone_by(tmp_path: Path) -> None:
    contents, manifest = make(tmp_path / "made", "IVF16,Flat")
    index = faiss.deserialize_index(np.frombuffer(contents, np.uint8))
    index.make_direct_map()
    # The last vectors of the file's map are each the first of the first list.
    faiss.rev_swig_ptr(index.direct_map.array.data(), N)[N // 2 :] = 0
    mapped = faiss.serialize_index(index).tobytes()
    assert len(mapped) == len(contents) + 8 * N
    assert outcome(tmp_path, mapped, manifest) == ""
    opened = open_article_index(tmp_path / "items.faiss", manifest)
    vectors = np.random.default_rng(1).standard_normal((N, D), dtype=np.float32)
    np.testing.assert_array_equal(opened.vectors_at(np.arange(N)), vectors)


def test_a_direct_map_of_another_length_or_kind_is_refused(
    plain: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    contents, manifest = plain
    at = IVF + 16 + 37 + 8 + LISTS * D * 4
    assert contents[at : at + 9] == bytes(9)
    for begin, message in (
        (struct.pack("<BQ", 1, 2**40), f"the length of the direct map is {2**40}, not {N}"),
        (struct.pack("<BQ", 2, 0), "direct maps of kind 2 are not served"),
    ):
        changed = contents[:at] + begin + contents[at + 9 :]
        assert message in outcome(tmp_path, changed, manifest)


@pytest.mark.parametrize("size", [2, IVF + 3, IVF + 16 + 37 + 8 + LISTS * D * 4 + 40])
def test_a_file_that_is_cut_while_it_is_read_is_refused(
    plain: tuple[bytes, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    contents, manifest = plain
    as_before = os.stat_result((0, 0, 0, 0, 0, 0, len(contents), 0, 0, 0))
    monkeypatch.setattr("faiss_server.index_layout.os.fstat", lambda _: as_before)
    message = outcome(tmp_path, contents[:size], manifest)
    assert message.startswith("not readable: the file was cut in the ")


@pytest.fixture(scope="module")
def in_blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Manifest]:
    return make(tmp_path_factory.mktemp("blocks"), "IVF16,PQ8x4fsr,RFlat")


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (1, "<Q", 8, "the code size is 8, not 4"),
        (9, "<i", 64, "the codes of a block is 64, not 32"),
        (13, "<Q", 16, "the parts of a code in a block is 16, not 8"),
        (21, "<i", 14, "the implementation is 14, not 0"),
        (25, "<q", 3, "the queries of a block is 3, not 0"),
        (49, "<Q", 8, "the bits of a part is 8, not 4"),
        (577, "4s", b"ilar", "lists of kind 'ilar' are not served"),
        (581, "<Q", 17, "the number of lists is 17, not 16"),
        (589, "<Q", 4, "the code size of the lists is 4, not 18446744073709551615"),
        (597, "<Q", 33, "the codes of a block is 33, not 32"),
        (605, "<Q", 64, "the bytes of a block is 64, not 128"),
        (613, "<Q", 2**61, "the file ends in the ids of a list"),
        (613, "<Q", 0, "the length of the codes of a list is "),
    ],
)
def test_strange_blocks_of_codes_are_refused_with_the_field(
    in_blocks: tuple[bytes, Manifest], tmp_path: Path, at: int, form: str, value: object,
    message: str,
) -> None:  # fmt: skip
    contents, manifest = in_blocks
    # After the header of the lists, the centres, and no direct map.
    begin = contents.index(b"IwPf") + IVF + 16 + 37 + 8 + LISTS * D * 4 + 9
    assert contents[begin + 577 : begin + 581] == b"ilbl"
    changed = bytearray(contents)
    struct.pack_into(form, changed, begin + at, value)
    assert message in outcome(tmp_path, bytes(changed), manifest)


def test_codes_in_blocks_without_finer_vectors_are_refused(
    in_blocks: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    _, manifest = in_blocks
    vectors = np.random.default_rng(1).standard_normal((N, D), dtype=np.float32)
    index = faiss.index_factory(D, "IDMap,IVF1,PQ8x4fsr", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(N))
    alone = faiss.serialize_index(index).tobytes()
    assert "codes in blocks lack finer vectors" in outcome(tmp_path, alone, manifest)
    with pytest.raises(ValueError, match="which PQ…x4fs and PQ…x4fsr do need"):
        kinds_of("IVF16,PQ8x4fsr")


def test_codes_in_blocks_that_are_not_numbers_are_refused(
    in_blocks: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    contents, manifest = in_blocks
    for name in ("pq", "quantizer"):
        index = faiss.deserialize_index(np.frombuffer(contents, np.uint8))
        lists = faiss.downcast_index(faiss.downcast_index(index.index).base_index)
        if name == "pq":
            faiss.rev_swig_ptr(lists.pq.centroids.data(), 4)[3] = np.nan
        else:
            faiss.rev_swig_ptr(faiss.downcast_index(lists.quantizer).get_xb(), 4)[3] = np.nan
        spoilt = faiss.serialize_index(index).tobytes()
        assert "a search of all lists reaches " in outcome(tmp_path, spoilt, manifest)


def test_centres_in_lists_that_cannot_be_found_by_number_are_refused(tmp_path: Path) -> None:
    """faiss would end the process at the first search."""
    contents, manifest = make(tmp_path / "made", "IVF16(IVF4,Flat),SQ8")
    index = faiss.deserialize_index(np.frombuffer(contents, np.uint8))
    faiss.downcast_index(index.quantizer).set_direct_map_type(faiss.DirectMap.NoMap)
    changed = faiss.serialize_index(index).tobytes()
    assert outcome(tmp_path, changed, manifest).endswith("the kind of direct map is 0, not 1")


def test_whatever_eight_bytes_are_a_huge_number_the_file_is_refused_or_harmless(
    sound: tuple[bytes, Manifest], tmp_path: Path
) -> None:
    contents, manifest = sound
    refused = 0
    for number, at in enumerate(range(0, len(contents) - 8, len(contents) // 300)):
        huge = struct.pack("<Q", (2**40, 2**63 - 1)[number % 2])
        found = outcome(tmp_path, contents[:at] + huge + contents[at + 8 :], manifest)
        assert "badly told" not in found
        refused += bool(found)
    assert refused > 10


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_spoilt_files_are_refused_or_harmless(
    sound: tuple[bytes, Manifest], tmp_path: Path, data: st.DataObject
) -> None:
    contents, manifest = sound
    changed = bytearray(contents)
    # Most fields are near the beginning, the end, and after the centres.
    places = st.one_of(st.integers(0, 700), st.integers(0, len(contents) - 1))
    for at in data.draw(st.lists(places, min_size=1, max_size=4)):
        changed[at] ^= data.draw(st.integers(1, 255))
    how = data.draw(st.sampled_from(["whole", "cut", "longer"]))
    if how == "cut":
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    elif how == "longer":
        changed += data.draw(st.binary(min_size=1, max_size=20))
    found = outcome(tmp_path, bytes(changed), manifest)
    assert found or how == "whole"
    assert "badly told" not in found
