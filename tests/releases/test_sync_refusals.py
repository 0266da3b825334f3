"""What a mirror does about releases that are damaged, and about a full disk."""

import errno
import logging
from pathlib import Path

import pytest

from releases.errors import LocalDiskError
from releases.layout import manifest_path
from releases.local import local_releases
from releases.store import ReleaseStore
from releases.sync import Mirror
from tests.releases.mirroring import SERVED, CountingStore, damage_in_store, held
from tests.support.releases import publish_tiny


def test_a_refused_release_does_not_displace_good_ones(
    disk_store: ReleaseStore, staging: Path, into: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for release in (1, 2):
        publish_tiny(disk_store, staging, release)
    mirror = Mirror(disk_store, into, SERVED, retry_seconds=0)
    mirror.sync()
    publish_tiny(disk_store, staging, 3)
    damage_in_store(disk_store, 3)
    for _ in range(3):
        assert held(mirror.sync()) == [2, 1]
    assert list(mirror.refused) == [3]
    assert "indexes/items/3/items.faiss: has sha256" in mirror.refused[3]
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    assert local_releases(into, SERVED) == {1, 2}


def test_a_refused_release_is_tried_again_only_after_a_while(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    damage_in_store(disk_store, 1)
    store = CountingStore(disk_store.url)
    mirror = Mirror(store, into, SERVED)
    mirror.sync()
    store.read.clear()
    mirror.sync()
    assert store.read == []
    assert list(mirror.refused) == [1]


def test_a_refused_release_that_is_repaired_is_held(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    path = damage_in_store(disk_store, 1)
    mirror = Mirror(disk_store, into, SERVED, retry_seconds=0)
    assert mirror.sync() == []
    path.write_bytes((staging / "indexes/items/1/items.faiss").read_bytes())
    assert held(mirror.sync()) == [1]
    assert mirror.refused == {}


def test_a_refused_release_that_is_withdrawn_is_forgotten(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    damage_in_store(disk_store, 1)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()
    disk_store.withdraw(1)
    mirror.sync()
    assert mirror.refused == {}


def test_a_refused_release_that_has_become_old_is_forgotten(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    damage_in_store(disk_store, 1)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()
    for release in (2, 3):
        publish_tiny(disk_store, staging, release)
    assert held(mirror.sync()) == [3, 2]
    assert mirror.refused == {}


def test_a_malformed_manifest_is_refused(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    disk_store.create(manifest_path(2), b"{")
    mirror = Mirror(disk_store, into, SERVED)
    assert held(mirror.sync()) == [1]
    assert "releases/2.json: document" in mirror.refused[2]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No file can be written until this is undone."""

    def refuse(_stream: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("releases.pull.sync_to_disk", refuse)
    return monkeypatch


def test_a_full_disk_is_not_tried_again_at_every_look(
    disk_store: ReleaseStore, staging: Path, into: Path, full_disk: pytest.MonkeyPatch
) -> None:
    publish_tiny(disk_store, staging, 1)
    store = CountingStore(disk_store.url)
    mirror = Mirror(store, into, SERVED)
    for _ in range(3):
        with pytest.raises(LocalDiskError, match="release 1: No space left on device"):
            mirror.sync()
    assert len(store.read) == 1
    full_disk.undo()
    with pytest.raises(LocalDiskError):
        mirror.sync()
    assert len(store.read) == 1


def test_a_full_disk_is_tried_again_after_a_while(
    disk_store: ReleaseStore, staging: Path, into: Path, full_disk: pytest.MonkeyPatch
) -> None:
    publish_tiny(disk_store, staging, 1)
    mirror = Mirror(disk_store, into, SERVED, disk_retry_seconds=0)
    with pytest.raises(LocalDiskError):
        mirror.sync()
    full_disk.undo()
    assert held(mirror.sync()) == [1]


def test_a_full_disk_costs_nothing_of_what_is_held_and_keeps_nothing_that_is_withdrawn(
    disk_store: ReleaseStore, staging: Path, into: Path, request: pytest.FixtureRequest
) -> None:
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()
    request.getfixturevalue("full_disk")
    publish_tiny(disk_store, staging, 4)
    disk_store.withdraw(2)
    with pytest.raises(LocalDiskError):
        mirror.sync()
    assert held(mirror.local()) == [3]
    disk_store.withdraw(3)
    with pytest.raises(LocalDiskError):
        mirror.sync()
    assert mirror.local() == []


def test_a_refusal_is_remembered_while_all_places_are_answered_from(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    damage_in_store(disk_store, 3)
    store, in_use = CountingStore(disk_store.url), set[int]()
    mirror = Mirror(store, into, SERVED, in_use=lambda: in_use)
    assert held(mirror.sync()) == [2, 1]
    in_use |= {1, 2}
    store.read.clear()
    assert held(mirror.sync()) == [2, 1]
    in_use.clear()
    assert held(mirror.sync()) == [2, 1]
    assert list(mirror.refused) == [3]
    assert store.read == []
