from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from releases.errors import ManifestError, ReleaseExistsError, ReleaseNotFoundError, StoreError
from releases.layout import manifest_path, withdrawn_path
from releases.publish import publish
from releases.store import Listing, ReleaseStore
from tests.support.releases import publish_tiny, tiny_files, tiny_release


def test_a_store_that_does_not_exist_yet_is_empty(store: ReleaseStore) -> None:
    assert store.published() == []
    assert store.withdrawn() == set()
    assert store.usable() == []
    assert store.stored() == set()
    with pytest.raises(ReleaseNotFoundError, match="no release 7"):
        store.manifest(7)


def test_releases_are_listed_newest_first_by_number(store: ReleaseStore, staging: Path) -> None:
    for release in (9, 100, 20):
        publish_tiny(store, staging, release)
    assert store.published() == [100, 20, 9]


def test_a_withdrawn_release_stays_published_and_is_not_usable(
    store: ReleaseStore, staging: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(store, staging, release)
    store.withdraw(2)
    store.withdraw(2)
    assert store.published() == [3, 2, 1]
    assert store.withdrawn() == {2}
    assert store.usable() == [3, 1]


def test_an_unknown_release_cannot_be_withdrawn(store: ReleaseStore) -> None:
    with pytest.raises(ReleaseNotFoundError):
        store.withdraw(7)
    assert store.withdrawn() == set()


def test_a_manifest_reads_back_as_published(store: ReleaseStore, staging: Path) -> None:
    manifest = publish_tiny(store, staging, 7)
    assert store.manifest(7) == manifest


def test_other_files_beside_the_manifests_are_no_releases(
    store: ReleaseStore, staging: Path
) -> None:
    publish_tiny(store, staging, 7)
    for name in ("releases/.8.json.1f.partial", "releases/x.json", "releases/08.json"):
        store.create(name, b"")
    assert store.published() == [7]


def test_a_manifest_under_another_name_is_refused(store: ReleaseStore, staging: Path) -> None:
    manifest = publish_tiny(store, staging, 7)
    store.create(manifest_path(8), manifest.model_dump_json().encode())
    with pytest.raises(ManifestError, match=r"releases/8\.json: release: is 7"):
        store.manifest(8)


def test_a_file_is_created_once_only(store: ReleaseStore) -> None:
    store.create(manifest_path(7), b"first")
    with pytest.raises(FileExistsError):
        store.create(manifest_path(7), b"second")
    assert b"".join(store.chunks(manifest_path(7))) == b"first"


def test_removal_takes_everything_of_one_release(store: ReleaseStore, staging: Path) -> None:
    publish_tiny(store, staging, 7)
    publish_tiny(store, staging, 8)
    store.withdraw(7)
    store.remove(7)
    store.remove(7)
    assert (store.published(), store.withdrawn(), store.stored()) == ([8], set(), {8})
    assert store.file_sizes(7) == {}
    assert store.file_sizes(8) == {path: len(data) for path, data in tiny_files(8).items()}


def test_two_openings_of_one_store_see_each_others_writes(
    store: ReleaseStore, staging: Path
) -> None:
    other = ReleaseStore(store.url)
    assert other.published() == []
    publish_tiny(store, staging, 7)
    assert other.published() == [7]
    other.withdraw(7)
    assert store.usable() == []


@pytest.mark.parametrize("url", ["nope://bucket", "memory://a::nope://b"])
def test_a_place_that_cannot_be_opened_is_a_store_error(url: str) -> None:
    with pytest.raises(StoreError, match=r"^[^\n]+$"):
        ReleaseStore(url)


class _BucketFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Answers an object store's way, as s3fs passes it on."""

    protocol = "bucket"
    options: dict[str, Any]
    away = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.removeprefix("bucket://"))
        return stripped

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if type(self).away:
            raise RuntimeError("no route\nto host")
        return super().ls(path, detail=detail, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if mode == "create" and self.exists(path):
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")
        super().pipe_file(path, value)


@pytest.fixture
def bucket() -> Iterator[ReleaseStore]:
    fsspec.register_implementation("bucket", _BucketFileSystem, clobber=True)
    yield ReleaseStore("bucket://releases")
    _BucketFileSystem.away = False
    MemoryFileSystem.store.clear()


def test_no_listing_and_no_connection_is_shared(bucket: ReleaseStore) -> None:
    assert bucket._fs.options["use_listings_cache"] is False
    assert ReleaseStore(bucket.url)._fs is not bucket._fs


def test_a_failed_precondition_means_the_release_exists(
    bucket: ReleaseStore, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish_tiny(bucket, staging, 7)
    before = b"".join(bucket.chunks(manifest_path(7)))
    monkeypatch.setattr(bucket, "listing", lambda: Listing((), frozenset()))  # lost the race
    with pytest.raises(ReleaseExistsError):
        publish(bucket, staging, manifest.model_copy(update={"run_started": "later"}))
    assert b"".join(bucket.chunks(manifest_path(7))) == before


def test_any_error_of_a_client_is_a_store_error_of_one_line(bucket: ReleaseStore) -> None:
    _BucketFileSystem.away = True
    with pytest.raises(StoreError, match=r"^bucket://releases: no route to host$"):
        bucket.published()


def test_a_folder_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        ReleaseStore(str(tmp_path / "file")).published()


def test_a_file_that_cannot_be_written_is_told_in_the_same_words_each_time(
    disk_store: ReleaseStore,
) -> None:
    path = f"serving/{'x' * 250}.json"
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            disk_store.put(path, b"")
        assert str(caught.value) == f"{disk_store.url}/{path}: File name too long"


def test_a_withdrawal_marker_alone_publishes_nothing(store: ReleaseStore, staging: Path) -> None:
    store.create(withdrawn_path(7), b"")
    assert (store.published(), store.usable()) == ([], [])
    tiny_release(staging, 7)
    assert store.stored() == set()
