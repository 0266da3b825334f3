import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from releases.checksums import describe_files
from releases.errors import (
    IncompleteReleaseError,
    ReleaseClaimedError,
    ReleaseError,
    ReleaseExistsError,
    StoreError,
)
from releases.layout import manifest_path
from releases.prune import prune
from releases.publish import copy_release, publish
from releases.store import ReleaseStore, claim_path
from releases.transfer import Transferred
from releases.verify import verify
from tests.support.releases import (
    make_claim_older,
    publish_tiny,
    stage_files,
    tiny_files,
    tiny_release,
)


class DyingStore(ReleaseStore):
    """Fails after some uploads, and stores nothing from then on, as a publish that is killed."""

    def __init__(self, url: str, uploads: int) -> None:
        super().__init__(url)
        self._uploads = threading.Semaphore(uploads)

    def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        if not self._uploads.acquire(blocking=False):
            raise StoreError("connection lost")
        super().write(path, chunks, size)


def contents(store: ReleaseStore, release: int) -> dict[str, bytes]:
    return {path: b"".join(store.chunks(path)) for path in store.file_sizes(release)}


def test_a_published_release_is_stored_byte_for_byte(store: ReleaseStore, staging: Path) -> None:
    publish_tiny(store, staging, 7)
    assert contents(store, 7) == tiny_files(7)
    verify(store, 7)


def test_a_release_is_never_published_twice(store: ReleaseStore, staging: Path) -> None:
    publish_tiny(store, staging, 7, "first")
    with pytest.raises(ReleaseExistsError, match="already has release 7"):
        publish_tiny(store, staging, 7, "second")
    assert contents(store, 7) == tiny_files(7, "first")


def test_a_withdrawn_release_is_not_published_again(store: ReleaseStore, staging: Path) -> None:
    manifest = publish_tiny(store, staging, 7)
    store.withdraw(7)
    with pytest.raises(ReleaseExistsError):
        publish(store, staging, manifest)


@pytest.mark.parametrize("attempt", range(5))
def test_of_publishers_of_different_contents_at_the_same_time_one_wins(
    disk_store: ReleaseStore, tmp_path: Path, attempt: int
) -> None:
    start = threading.Barrier(4)
    outcomes: dict[str, ReleaseError | None] = {}

    def race(content: str) -> None:
        staging = tmp_path / content
        manifest = tiny_release(staging, 7, content)
        start.wait()
        try:
            publish(disk_store, staging, manifest)
        except ReleaseError as error:
            outcomes[content] = error
        else:
            outcomes[content] = None

    threads = [threading.Thread(target=race, args=(content,)) for content in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (content for content, error in outcomes.items() if error is None)
    losers = [error for error in outcomes.values() if error is not None]
    assert {type(error) for error in losers} <= {ReleaseClaimedError, ReleaseExistsError}
    verify(disk_store, 7)
    assert contents(disk_store, 7) == tiny_files(7, winner)


def test_a_publisher_that_comes_late_changes_nothing_of_what_is_under_way(
    disk_store: ReleaseStore, tmp_path: Path
) -> None:
    late = tiny_release(tmp_path / "late", 7, "late")

    class InterruptedStore(ReleaseStore):
        def create(self, path: str, data: bytes) -> None:
            if path == manifest_path(7):
                with pytest.raises(ReleaseClaimedError, match="publish under a new id"):
                    publish(disk_store, tmp_path / "late", late)
            super().create(path, data)

    publish_tiny(InterruptedStore(disk_store.url), tmp_path / "early", 7, "early")
    verify(disk_store, 7)
    assert contents(disk_store, 7) == tiny_files(7, "early")
    with pytest.raises(ReleaseExistsError):
        publish(disk_store, tmp_path / "late", late, take_over=True)
    assert contents(disk_store, 7) == tiny_files(7, "early")


def test_a_publisher_that_looked_before_the_other_was_done_finds_out_in_time(
    disk_store: ReleaseStore, tmp_path: Path
) -> None:
    manifest = tiny_release(tmp_path / "late", 7, "late")
    total = sum(entry.size for entry in manifest.files)
    seen = 0

    def publish_the_other_when_all_is_checked(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == total:
            publish_tiny(disk_store, tmp_path / "early", 7, "early")

    with pytest.raises(ReleaseExistsError):
        publish(disk_store, tmp_path / "late", manifest, publish_the_other_when_all_is_checked)
    assert contents(disk_store, 7) == tiny_files(7, "early")
    assert not claims(disk_store)


def test_what_another_is_writing_stays_and_what_the_dead_left_goes(
    disk_store: ReleaseStore, staging: Path
) -> None:
    home = Path(disk_store.url) / "models/user_tower/7/variables"
    young, old = home / ".variables.0a.partial", home / ".variables.0b.partial"
    home.mkdir(parents=True)
    for path, hours in ((young, 23), (old, 25)):
        path.write_bytes(b"half")
        written_at = time.time() - hours * 3600
        os.utime(path, (written_at, written_at))
    publish_tiny(disk_store, staging, 7)
    assert young.exists()
    assert not old.exists()
    verify(disk_store, 7)


@pytest.mark.parametrize("told", [StoreError("connection reset"), FileExistsError()])
def test_a_publish_whose_last_answer_was_lost_is_done(
    disk_store: ReleaseStore, staging: Path, told: Exception
) -> None:
    """The store has the manifest, and its client hears of an error, or asks again and finds it."""

    class DeafStore(ReleaseStore):
        def create(self, path: str, data: bytes) -> None:
            super().create(path, data)
            if path == manifest_path(7):
                raise told

    store = DeafStore(disk_store.url)
    if isinstance(told, FileExistsError):
        publish_tiny(store, staging, 7)
    else:
        with pytest.raises(StoreError, match="connection reset"):
            publish_tiny(store, staging, 7)
        assert claims(disk_store)
        publish_tiny(disk_store, staging, 7)
    assert disk_store.published() == [7]
    assert not claims(disk_store)


def test_a_copy_that_is_repeated_sends_nothing(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    manifest = publish_tiny(disk_store, staging, 7)
    target = ReleaseStore(str(tmp_path / "other"))
    size = sum(entry.size for entry in manifest.files)
    assert copy_release(disk_store, target, 7) == Transferred(size, 0)
    assert copy_release(disk_store, target, 7) == Transferred(0, size)


def claims(store: ReleaseStore) -> list[str]:
    return [path.name for path in Path(store.url).rglob("*.publishing")]


def test_nothing_is_left_of_a_claim_once_the_release_is_published(
    disk_store: ReleaseStore, staging: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    assert not claims(disk_store)


def test_a_claim_says_since_when_and_for_which_contents(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError):
        publish_tiny(DyingStore(disk_store.url, 0), staging, 7)
    path = Path(disk_store.url) / claim_path(7)
    claim = json.loads(path.read_text())
    assert claim.keys() == {"schema_version", "learnt_sha256", "manifest_sha256", "claimed_at_ms"}
    path.write_text(json.dumps(claim | {"claimed_at_ms": 1_700_000_000_000}))
    with pytest.raises(ReleaseClaimedError, match="at 2023-11-14 22:13:20 UTC: publish under"):
        publish_tiny(disk_store, tmp_path / "other", 7, "other")
    path.write_text("{")
    with pytest.raises(ReleaseClaimedError, match="other contents: publish under"):
        publish_tiny(disk_store, staging, 7)
    publish(disk_store, staging, tiny_release(staging, 7), take_over=True)
    verify(disk_store, 7)


def test_a_publisher_whose_claim_was_taken_over_does_not_publish(
    disk_store: ReleaseStore, staging: Path
) -> None:
    class TakenOverStore(ReleaseStore):
        def file_sizes(self, release: int) -> dict[str, int]:
            path = Path(self.url) / claim_path(release)
            path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest_sha256": "x"}))
            return super().file_sizes(release)

    with pytest.raises(ReleaseClaimedError):
        publish_tiny(TakenOverStore(disk_store.url), staging, 7)
    assert disk_store.published() == []


@pytest.mark.parametrize("uploads", [0, 1, 6])
def test_an_interrupted_publish_shows_nothing_and_can_be_repeated(
    store: ReleaseStore, staging: Path, uploads: int
) -> None:
    with pytest.raises(StoreError, match="connection lost"):
        publish_tiny(DyingStore(store.url, uploads), staging, 7)
    assert store.published() == []
    publish_tiny(store, staging, 7)
    assert contents(store, 7) == tiny_files(7)


@pytest.mark.parametrize("uploads", [0, 1, 6])
def test_other_contents_take_over_from_a_dead_publish_only_when_told_to(
    store: ReleaseStore, staging: Path, tmp_path: Path, uploads: int
) -> None:
    stage_files(tmp_path / "old", {"models/user_tower/7/assets/old_name": b"old"})
    with pytest.raises(StoreError, match="connection lost"):
        publish_tiny(DyingStore(store.url, uploads), tmp_path / "old", 7, "interrupted")
    left = contents(store, 7)
    manifest = tiny_release(staging, 7, "other")
    with pytest.raises(ReleaseClaimedError, match="--take-over"):
        publish(store, staging, manifest)
    assert contents(store, 7) == left
    publish(store, staging, manifest, take_over=True)
    assert contents(store, 7) == tiny_files(7, "other")


def test_the_claim_of_a_dead_publish_is_pruned_with_what_it_left(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError):
        publish_tiny(DyingStore(disk_store.url, 1), tmp_path / "old", 7)
    for release in (8, 9):
        publish_tiny(disk_store, staging, release)
    assert prune(disk_store, 2) == []
    make_claim_older(disk_store, 7, hours=25)
    assert prune(disk_store, 2) == [7]
    assert not claims(disk_store)


def test_a_half_written_file_is_not_left_under_its_name(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path
) -> None:
    manifest = tiny_release(staging, 7)
    total = sum(entry.size for entry in manifest.files)
    seen = 0

    def die_when_storing(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(disk_store, staging, manifest, die_when_storing)
    stored = {path: data for path, data in contents(disk_store, 7).items() if data}
    assert stored.items() <= tiny_files(7).items()
    assert disk_store.published() == []
    assert not list((tmp_path / "store").rglob("*.partial"))


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("indexes/items/7/items.faiss", None, "indexes/items/7/items.faiss: is missing"),
        ("indexes/items/7/items.faiss", b"", "indexes/items/7/items.faiss: has 0 bytes"),
        ("embeddings/items/7/ids.npy", b"~7 ids.npy", "embeddings/items/7/ids.npy: has sha256"),
        ("models/user_tower/7/extra", b"x", "models/user_tower/7/extra: is not in the manifest"),
    ],
)
def test_staging_that_is_not_what_the_manifest_says_is_refused(
    store: ReleaseStore, staging: Path, name: str, data: bytes | None, problem: str
) -> None:
    manifest = tiny_release(staging, 7)
    if data is None:
        (staging / name).unlink()
    else:
        (staging / name).write_bytes(data)
    with pytest.raises(IncompleteReleaseError, match=problem):
        publish(store, staging, manifest)
    assert store.published() == []
    assert store.stored() == set()


def test_an_upload_that_ends_early_without_an_error_is_caught(
    store: ReleaseStore, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny_release(staging, 7)
    lost = manifest.files[0].path
    write = store.write

    def forgetful(path: str, chunks: Iterable[bytes], size: int) -> None:
        if path != lost:
            write(path, chunks, size)

    monkeypatch.setattr(store, "write", forgetful)
    with pytest.raises(IncompleteReleaseError, match=lost):
        publish(store, staging, manifest)
    assert store.published() == []


def test_progress_hears_of_every_byte_three_times(store: ReleaseStore, staging: Path) -> None:
    manifest = tiny_release(staging, 7)
    counts: list[int] = []
    publish(store, staging, manifest, counts.append)
    assert sum(counts) == 3 * sum(entry.size for entry in manifest.files)


def test_a_release_without_one_of_its_parts_cannot_be_described(staging: Path) -> None:
    files = tiny_files(7)
    stage_files(staging, {path: data for path, data in files.items() if "indexes" not in path})
    with pytest.raises(IncompleteReleaseError, match="indexes/items/7: holds no files"):
        describe_files(staging, 7)


def test_verify_lists_every_problem(disk_store: ReleaseStore, staging: Path) -> None:
    publish_tiny(disk_store, staging, 7)
    root = Path(disk_store.url)
    (root / "indexes/items/7/items.faiss").unlink()
    (root / "embeddings/items/7/ids.npy").write_bytes(b"short")
    data = bytearray((root / "models/user_tower/7/saved_model.pb").read_bytes())
    data[-1] ^= 1
    (root / "models/user_tower/7/saved_model.pb").write_bytes(data)
    (root / "models/user_tower/7/extra").write_bytes(b"")
    with pytest.raises(IncompleteReleaseError) as caught:
        verify(disk_store, 7)
    for problem in (
        "indexes/items/7/items.faiss: is missing",
        "embeddings/items/7/ids.npy: has 5 bytes",
        "models/user_tower/7/saved_model.pb: has sha256",
        "models/user_tower/7/extra: is not in the manifest",
    ):
        assert problem in str(caught.value)


def test_the_manifest_arrives_after_every_file(
    disk_store: ReleaseStore, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_before: list[dict[str, bytes]] = []
    create = disk_store.create

    def spy(path: str, data: bytes) -> None:
        if path == manifest_path(7):
            stored_before.append(contents(disk_store, 7))
        create(path, data)

    monkeypatch.setattr(disk_store, "create", spy)
    publish_tiny(disk_store, staging, 7)
    assert stored_before == [tiny_files(7)]
