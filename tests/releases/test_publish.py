import threading
from pathlib import Path

import pytest

from releases.checksums import OnBytes, describe_files, ignore_bytes
from releases.errors import IncompleteReleaseError, ReleaseExistsError, StoreError
from releases.layout import manifest_path
from releases.publish import publish
from releases.store import ReleaseStore
from releases.verify import verify
from tests.support.releases import publish_tiny, stage_files, tiny_files, tiny_release


class DyingStore(ReleaseStore):
    """Fails after some uploads, as a publish that is killed."""

    def __init__(self, url: str, uploads: int) -> None:
        super().__init__(url)
        self._uploads = threading.Semaphore(uploads)

    def upload(self, source: Path, path: str, on_bytes: OnBytes = ignore_bytes) -> None:
        if not self._uploads.acquire(blocking=False):
            raise StoreError("connection lost")
        super().upload(source, path, on_bytes)


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


def test_of_two_publishers_at_the_same_time_one_wins(
    disk_store: ReleaseStore, tmp_path: Path
) -> None:
    start = threading.Barrier(4)
    won: list[int] = []

    def attempt(number: int) -> None:
        manifest = tiny_release(tmp_path / str(number), 7)
        manifest = manifest.model_copy(update={"run_started": str(number)})
        start.wait()
        try:
            publish(disk_store, tmp_path / str(number), manifest)
        except (ReleaseExistsError, StoreError, FileNotFoundError):
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert verify(disk_store, 7).run_started == str(won[0])


@pytest.mark.parametrize("uploads", [0, 1, 6])
def test_an_interrupted_publish_shows_nothing_and_can_be_repeated(
    store: ReleaseStore, staging: Path, tmp_path: Path, uploads: int
) -> None:
    stage_files(tmp_path / "old", {"models/user_tower/7/assets/old_name": b"old"})
    with pytest.raises(StoreError, match="connection lost"):
        publish_tiny(DyingStore(store.url, uploads), tmp_path / "old", 7, "interrupted")
    assert store.published() == []
    publish_tiny(store, staging, 7, "repeated")
    assert contents(store, 7) == tiny_files(7, "repeated")


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
    upload = store.upload

    def forgetful(source: Path, path: str, on_bytes: OnBytes) -> None:
        if path != lost:
            upload(source, path, on_bytes)

    monkeypatch.setattr(store, "upload", forgetful)
    with pytest.raises(IncompleteReleaseError, match=lost):
        publish(store, staging, manifest)
    assert store.published() == []


def test_progress_hears_of_every_byte_twice(store: ReleaseStore, staging: Path) -> None:
    manifest = tiny_release(staging, 7)
    counts: list[int] = []
    publish(store, staging, manifest, counts.append)
    assert sum(counts) == 2 * sum(entry.size for entry in manifest.files)


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
        assert path == manifest_path(7)
        stored_before.append(contents(disk_store, 7))
        create(path, data)

    monkeypatch.setattr(disk_store, "create", spy)
    publish_tiny(disk_store, staging, 7)
    assert stored_before == [tiny_files(7)]
