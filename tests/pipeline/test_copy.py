"""Model and embeddings in the serving store, ahead of the index."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.copy import CopiedModel, copy_model, discard_copy
from pipeline.exported import ExportedModel
from releases.errors import StoreError
from releases.layout import Part
from releases.publish import publish
from releases.store import ReleaseStore
from tests.support.releases import publish_tiny, stage_files, tiny_files, tiny_release


@pytest.fixture
def exported(tmp_path: Path) -> ExportedModel:
    files = {path: data for path, data in tiny_files(7).items() if Part.INDEX not in path}
    stage_files(tmp_path / "export", files | {"record.json": b"{}"})
    return ExportedModel(tmp_path / "export", release=7, dimension=2, article_count=3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy"


def test_the_copy_says_what_it_did_and_shows_nothing(
    exported: ExportedModel, directory: Path, tmp_path: Path
) -> None:
    store = ReleaseStore(str(tmp_path / "store"))
    shares: list[float] = []
    copied = copy_model(exported, store.url, directory, shares.append)
    copied.save()
    sizes = store.file_sizes(7)
    assert CopiedModel.load(directory) == copied
    assert (copied.file_count, copied.bytes_sent) == (len(sizes), sum(sizes.values()))
    assert copied.bytes_already_there == 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert set(sizes) == {path for path in tiny_files(7) if Part.INDEX not in path}
    assert (store.published(), store.usable()) == ([], [])


def test_a_copy_that_failed_half_way_is_gone_on_with(
    exported: ExportedModel, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReleaseStore(str(tmp_path / "store"))
    write = ReleaseStore.write

    def failing(self: ReleaseStore, path: str, chunks: Iterable[bytes], size: int) -> None:
        if "vectors" in path:
            raise StoreError("connection lost")
        write(self, path, chunks, size)

    with monkeypatch.context() as patch:
        patch.setattr(ReleaseStore, "write", failing)
        with pytest.raises(StoreError, match=r"vectors.npy: not copied from .*: connection lost"):
            copy_model(exported, store.url, directory)
    there = store.file_sizes(7)
    copied = copy_model(exported, store.url, directory)
    assert copied.bytes_already_there == sum(there.values())
    assert copied.bytes_sent == sum(store.file_sizes(7).values()) - sum(there.values())
    manifest = tiny_release(tmp_path / "staging", 7)
    done = publish(store, tmp_path / "staging", manifest)
    assert done.bytes_already_there == sum(store.file_sizes(7).values()) - done.bytes_sent
    assert store.published() == [7]


def test_what_the_gate_refuses_goes_away_and_what_is_published_stays(
    exported: ExportedModel, directory: Path, tmp_path: Path
) -> None:
    store = ReleaseStore(str(tmp_path / "store"))
    publish_tiny(store, tmp_path / "staging", 6)
    copy_model(exported, store.url, directory)
    discard_copy(store.url, 7)
    discard_copy(store.url, 6)
    assert store.stored() == {6}
    assert store.claimed() == set()
    assert store.published() == [6]
