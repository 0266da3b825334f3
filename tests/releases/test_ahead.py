"""Model and embeddings that go into the store before there is an index."""

import errno
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from releases.__main__ import main
from releases.ahead import copy_ahead, describe_ahead, discard_copy
from releases.errors import (
    IncompleteReleaseError,
    ReleaseClaimedError,
    ReleaseExistsError,
    ReleaseNotFoundError,
    StoreError,
)
from releases.layout import Part, part_path
from releases.manifest import FileEntry
from releases.prune import prune
from releases.publish import copy_release, publish
from releases.store import ReleaseStore
from releases.transfer import Transferred, copy_files
from releases.verify import verify
from tests.support.releases import (
    make_claim_older,
    manifest_of,
    publish_tiny,
    stage_files,
    tiny_files,
    tiny_release,
)


def without_index(release: int, content: str = "") -> dict[str, bytes]:
    files = tiny_files(release, content)
    return {path: data for path, data in files.items() if not path.startswith(Part.INDEX.value)}


def ahead(store: ReleaseStore, staging: Path, release: int, content: str = "") -> Transferred:
    stage_files(staging, without_index(release, content))
    files = describe_ahead(staging, release)
    return copy_ahead(ReleaseStore(str(staging)), store, release, files)


def total(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def test_publishing_sends_only_what_was_not_copied_ahead(
    store: ReleaseStore, staging: Path
) -> None:
    first = total(without_index(7))
    assert ahead(store, staging, 7) == Transferred(first, 0)
    assert (store.published(), store.claimed()) == ([], {7})
    assert store.file_sizes(7) == {path: len(data) for path, data in without_index(7).items()}
    assert ahead(store, staging, 7) == Transferred(0, first)
    done = publish(store, staging, tiny_release(staging, 7))
    assert done == Transferred(total(tiny_files(7)) - first, first)
    verify(store, 7)
    assert store.claimed() == set()


def test_a_published_release_is_not_copied_again(store: ReleaseStore, staging: Path) -> None:
    publish_tiny(store, staging, 7)
    with pytest.raises(ReleaseExistsError):
        ahead(store, staging, 7)


def test_other_contents_are_kept_out_both_ways(
    store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    ahead(store, staging, 7)
    other = tiny_release(tmp_path / "other", 7, "other")
    with pytest.raises(ReleaseClaimedError, match="other contents at 20"):
        ahead(store, tmp_path / "other", 7, "other")
    with pytest.raises(ReleaseClaimedError, match="--take-over"):
        publish(store, tmp_path / "other", other)
    publish(store, tmp_path / "other", other, take_over=True)
    assert verify(store, 7) == other


def test_of_two_indexes_for_one_model_the_first_that_is_published_counts(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    ahead(disk_store, staging, 7)
    first = tiny_release(staging, 7)
    index = {f"{part_path(Part.INDEX, 7)}/items.faiss": b"another"}
    stage_files(tmp_path / "other", tiny_files(7) | index)
    second = manifest_of(tmp_path / "other", 7)

    class InterruptedStore(ReleaseStore):
        def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
            if path.endswith("items.faiss"):
                with pytest.raises(ReleaseClaimedError):
                    publish(disk_store, tmp_path / "other", second)
            super().write(path, chunks, size)

    publish(InterruptedStore(disk_store.url), staging, first)
    assert verify(disk_store, 7) == first


def test_a_copier_beside_a_publisher_of_the_same_does_no_harm(
    disk_store: ReleaseStore, staging: Path
) -> None:
    manifest = tiny_release(staging, 7)
    files, source = describe_ahead(staging, 7), ReleaseStore(str(staging))

    class InterruptedStore(ReleaseStore):
        def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
            super().write(path, chunks, size)
            if path.endswith("items.faiss"):
                copy_ahead(source, disk_store, 7, files)

    publish(InterruptedStore(disk_store.url), staging, manifest)
    assert verify(disk_store, 7) == manifest


def test_what_was_copied_ahead_can_be_discarded(store: ReleaseStore, staging: Path) -> None:
    ahead(store, staging, 7)
    publish_tiny(store, staging, 6)
    assert discard_copy(store, 7)
    assert (store.stored(), store.claimed()) == ({6}, set())
    assert not discard_copy(store, 7)
    assert not discard_copy(store, 6)
    verify(store, 6)
    publish_tiny(store, staging, 7, "other")


def test_what_is_being_published_is_not_discarded(disk_store: ReleaseStore, staging: Path) -> None:
    class InterruptedStore(ReleaseStore):
        def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
            assert not discard_copy(disk_store, 7)
            super().write(path, chunks, size)

    ahead(disk_store, staging, 7)
    publish_tiny(InterruptedStore(disk_store.url), staging, 7)
    verify(disk_store, 7)


def test_a_copy_stays_for_a_day_and_goes_after_it(store: ReleaseStore, staging: Path) -> None:
    for release in (2, 4):
        publish_tiny(store, staging, release)
    for release in (1, 3, 5):
        ahead(store, staging, release)
    assert prune(store, 2) == []
    for release in (1, 5):
        make_claim_older(store, release, hours=25)
    assert prune(store, 2) == [5, 1]
    assert store.stored() == {2, 3, 4}
    assert store.claimed() == {3}
    make_claim_older(store, 3, hours=23)
    ahead(store, staging, 3)  # goes on, so the day begins anew
    make_claim_older(store, 3, hours=2)
    assert prune(store, 2) == []


def test_the_claim_that_was_left_of_a_published_release_takes_nothing_away(
    disk_store: ReleaseStore, staging: Path
) -> None:
    for release in (1, 2):
        publish_tiny(disk_store, staging, release)
    ahead(disk_store, staging, 3)
    claim = Path(disk_store.url) / "releases/3.publishing"
    text = claim.read_bytes()
    publish_tiny(disk_store, staging, 3)
    claim.write_bytes(text)
    make_claim_older(disk_store, 3, hours=100)
    assert prune(disk_store, 3) == []
    verify(disk_store, 3)


def test_a_copy_that_finds_no_room_is_one_line_and_can_be_repeated(
    disk_store: ReleaseStore,
    staging: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_tiny(disk_store, staging, 7)
    target = ReleaseStore(str(tmp_path / "full"))
    written = ReleaseStore.write

    def fill(store: ReleaseStore, path: str, chunks: Iterable[bytes], size: int) -> None:
        def until_full() -> Iterable[bytes]:
            yield from chunks
            raise OSError(errno.ENOSPC, "No space left on device")

        written(store, path, until_full() if "vectors" in path else chunks, size)

    command = ["copy", "7", "--from", disk_store.url, "--to", target.url]
    with monkeypatch.context() as patch:
        patch.setattr(ReleaseStore, "write", fill)
        assert main(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error: embeddings/items/7/vectors.npy: not copied from {disk_store.url} to {target.url}: "
        f"{target.url}/embeddings/items/7/vectors.npy: No space left on device\n"
    )
    assert target.published() == []
    assert not list(Path(target.url).rglob("*.partial"))
    assert main(command) == 0
    verify(target, 7)


def test_a_withdrawn_release_is_not_copied(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    disk_store.withdraw(7)
    target = ReleaseStore(str(tmp_path / "other"))
    with pytest.raises(ReleaseNotFoundError, match="release 7 is withdrawn"):
        copy_release(disk_store, target, 7)
    assert target.claimed() == set()


def test_a_spoilt_source_is_named_and_nothing_of_it_arrives(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    (Path(disk_store.url) / "indexes/items/7/items.faiss").write_bytes(b"!7 items.faiss")
    target = ReleaseStore(str(tmp_path / "other"))
    with pytest.raises(IncompleteReleaseError, match=rf"{disk_store.url}: indexes/items/7/items"):
        copy_release(disk_store, target, 7)
    assert target.size("indexes/items/7/items.faiss") is None
    assert target.published() == []


def test_the_first_failure_ends_what_is_in_flight(disk_store: ReleaseStore, tmp_path: Path) -> None:
    under_way = threading.Event()

    class EndlessStore(ReleaseStore):
        def chunks(self, path: str) -> Iterator[bytes]:
            if path.endswith("refused"):
                assert under_way.wait(30)
                raise StoreError("connection lost")
            while True:
                yield b"x" * 1000
                under_way.set()

    source, target = EndlessStore(disk_store.url), ReleaseStore(str(tmp_path / "other"))
    files = [
        FileEntry(path=f"models/user_tower/7/{name}", size=1 << 40, sha256="0" * 64)
        for name in ("endless", "refused", "never begun")
    ]
    with pytest.raises(StoreError, match="connection lost"):
        copy_files(source, target, files, workers=2)
    assert target.file_sizes(7) == {}
