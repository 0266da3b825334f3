import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from releases.errors import ManifestError
from releases.layout import Part, part_path
from releases.manifest import (
    DataWindow,
    FileEntry,
    GoldenHistory,
    GoldenQuery,
    IndexInfo,
    Manifest,
    ModelSignature,
    TensorSpec,
    parse_manifest,
)
from tests.support.releases import tiny_release

ids = st.integers(0, 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
fractions = st.floats(0, 1)
sha256 = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.text("abcXYZ019_-.é ", min_size=1, max_size=9).filter(lambda name: name.strip(".") != "")


@st.composite
def golden_queries(draw: st.DrawFn, dimension: int) -> GoldenQuery:
    answers = draw(st.lists(st.tuples(ids, numbers), max_size=3))
    return GoldenQuery(
        vector=tuple(draw(st.lists(numbers, min_size=dimension, max_size=dimension))),
        article_ids=tuple(article for article, _ in answers),
        scores=tuple(score for _, score in answers),
        score_tolerance=draw(st.floats(1e-9, 1)),
    )


@st.composite
def golden_histories(draw: st.DrawFn) -> GoldenHistory:
    return GoldenHistory(
        history=tuple(draw(st.lists(ids, min_size=1, max_size=50))),
        region_id=draw(st.none() | ids),
        expected_article_ids=tuple(draw(st.lists(ids, min_size=1, max_size=3))),
        min_overlap=draw(st.floats(0.01, 1)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    release = draw(st.integers(1, 2**40))
    dimension = draw(st.integers(1, 4))
    lists = draw(st.integers(1, 4096))
    tensors = st.dictionaries(
        names, st.builds(TensorSpec, dtype=names, shape=st.tuples(st.just(-1), st.integers(1, 9)))
    )
    paths = st.builds(
        lambda part, steps: "/".join([part_path(part, release), *steps]),
        st.sampled_from(Part),
        st.lists(names, min_size=1, max_size=3),
    )
    return Manifest(
        release=release,
        run_started=draw(st.text(max_size=20)),
        data=DataWindow(
            first_event=draw(ids),
            last_event=draw(ids),
            cut_off=draw(ids),
            held_out=draw(st.sampled_from(["time", "last-view", None])),
        ),
        dimension=dimension,
        article_count=draw(st.integers(1, 2**31)),
        vocabulary_sha256=draw(sha256),
        model_signature=ModelSignature(inputs=draw(tensors), outputs=draw(tensors)),
        index=IndexInfo(
            type=draw(names),
            lists=lists,
            nprobe=draw(st.integers(1, lists)),
            recall_at_200=draw(fractions),
        ),
        offline_metrics=draw(st.dictionaries(names, numbers, max_size=3)),
        versions=draw(st.dictionaries(names, names, max_size=3)),
        golden_queries=tuple(draw(st.lists(golden_queries(dimension), min_size=1, max_size=2))),
        golden_histories=tuple(draw(st.lists(golden_histories(), min_size=1, max_size=2))),
        files=tuple(
            FileEntry(path=path, size=draw(ids), sha256=draw(sha256))
            for path in draw(st.lists(paths, min_size=1, max_size=4, unique=True))
        ),
    )


@given(manifests())
def test_a_manifest_reads_back_as_it_was_written(manifest: Manifest) -> None:
    assert parse_manifest(manifest.model_dump_json(), "m.json") == manifest


@given(manifests())
def test_every_file_belongs_to_exactly_one_part(manifest: Manifest) -> None:
    files = [entry for part in Part for entry in manifest.part_files(part)]
    assert sorted(files, key=str) == sorted(manifest.files, key=str)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "models/user_tower/7/../../../x",
        "/etc/passwd",
        "models/user_tower/7//etc/passwd",
        "models/user_tower/7/./x",
        "models/user_tower/7/",
        "models/user_tower/7/..\\x",
        "models/user_tower/7/x\0",
        "models/user_tower/8/x",
        "elsewhere/7/x",
        "",
    ],
)
def test_a_path_outside_the_release_is_refused(tmp_path: Path, path: str) -> None:
    document = tiny_release(tmp_path, 7).model_dump(mode="json")
    document["files"][0]["path"] = path
    with pytest.raises(ManifestError, match=r"^7\.json: (files\.0\.path|document): "):
        parse_manifest(json.dumps(document), "7.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("release", 0),
        ("release", 2**63),
        ("article_count", 2**63),
        ("dimension", 0),
        ("vocabulary_sha256", "short"),
        ("metric", "l2"),
        ("golden_queries", []),
        ("files", []),
        ("from_the_future", 1),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: object) -> None:
    document = tiny_release(tmp_path, 7).model_dump(mode="json") | {field: value}
    with pytest.raises(ManifestError, match=rf"^7\.json: {field}: "):
        parse_manifest(json.dumps(document), "7.json")


def test_an_id_or_a_number_that_no_message_can_tell_is_refused(tmp_path: Path) -> None:
    too_much = {
        "golden_histories.0.history.0": 2**63,
        "golden_histories.0.expected_article_ids.0": 2**63,
        "golden_queries.0.article_ids.0": 2**63,
        "index.lists": 2**31,
        "files.0.size": 2**63,
    }
    for field, value in too_much.items():
        document = tiny_release(tmp_path, 7).model_dump(mode="json")
        *steps, last = [int(step) if step.isdecimal() else step for step in field.split(".")]
        place: Any = document
        for step in steps:
            place = place[step]
        place[last] = value
        with pytest.raises(ManifestError, match=rf"^7\.json: {field}: "):
            parse_manifest(json.dumps(document), "7.json")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^7\.json: document: "):
        parse_manifest(text, "7.json")


def test_a_path_listed_twice_is_refused(tmp_path: Path) -> None:
    document = tiny_release(tmp_path, 7).model_dump(mode="json")
    document["files"].append(document["files"][0])
    with pytest.raises(ManifestError, match="listed twice"):
        parse_manifest(json.dumps(document), "7.json")
