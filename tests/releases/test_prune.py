from pathlib import Path

import pytest

from releases.errors import StoreError
from releases.layout import withdrawn_path
from releases.prune import prune
from releases.store import ReleaseStore
from releases.verify import verify
from tests.support.releases import publish_tiny


def test_the_newest_usable_releases_are_kept(store: ReleaseStore, staging: Path) -> None:
    for release in (1, 2, 3, 4, 5):
        publish_tiny(store, staging, release)
    assert prune(store, 3) == [2, 1]
    assert store.published() == [5, 4, 3]
    assert store.stored() == {3, 4, 5}
    for release in store.published():
        verify(store, release)


def test_withdrawn_releases_do_not_count_and_go_with_their_age(
    store: ReleaseStore, staging: Path
) -> None:
    for release in (1, 2, 3, 4, 5):
        publish_tiny(store, staging, release)
    for release in (2, 4):
        store.withdraw(release)
    assert prune(store, 2) == [2, 1]
    assert store.published() == [5, 4, 3]
    assert store.withdrawn() == {4}


def test_old_leftovers_go_and_a_publish_under_way_stays(store: ReleaseStore, staging: Path) -> None:
    for release in (2, 3):
        publish_tiny(store, staging, release)
    for release in (1, 4):
        store.put(f"indexes/items/{release}/items.faiss", b"half")
        store.create(withdrawn_path(release), b"")
    assert prune(store, 2) == [1]
    assert store.stored() == {2, 3, 4}
    assert store.withdrawn() == {4}


def test_nothing_goes_while_there_are_too_few(store: ReleaseStore, staging: Path) -> None:
    assert prune(store, 2) == []
    publish_tiny(store, staging, 1)
    store.withdraw(1)
    assert prune(store, 2) == []
    assert store.published() == [1]


def test_fewer_than_servers_hold_are_never_kept(store: ReleaseStore) -> None:
    with pytest.raises(ValueError, match="servers hold two"):
        prune(store, 1)


def test_an_interrupted_prune_leaves_no_release_without_files(
    disk_store: ReleaseStore, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    files_removed = disk_store._fs.rm

    def fail_on_files(path: str, *, recursive: bool) -> None:
        if recursive:
            raise OSError("connection lost")
        files_removed(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk_store._fs, "rm", fail_on_files)
        with pytest.raises(StoreError):
            prune(disk_store, 2)
    assert disk_store.published() == [3, 2]
    assert prune(disk_store, 2) == [1]
    assert disk_store.stored() == {2, 3}
