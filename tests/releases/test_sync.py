import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from releases import pull as pull_module
from releases.checksums import read_chunks
from releases.errors import LocalDiskError
from releases.layout import Part, manifest_path
from releases.local import local_manifests, local_releases
from releases.manifest import Manifest
from releases.store import ReleaseStore
from releases.sync import Mirror
from tests.support.releases import publish_tiny

SERVED = (Part.MODEL, Part.INDEX)


def held(manifests: list[Manifest]) -> list[int]:
    return [manifest.release for manifest in manifests]


def damage_in_store(store: ReleaseStore, release: int) -> Path:
    path = Path(store.url) / f"indexes/items/{release}/items.faiss"
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    return path


class CountingStore(ReleaseStore):
    """Notes which files are read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []

    def chunks(self, path: str) -> Iterator[bytes]:
        self.read.append(path)
        return super().chunks(path)


def test_the_newest_releases_are_held(store: ReleaseStore, staging: Path, into: Path) -> None:
    for release in (1, 2, 3):
        publish_tiny(store, staging, release)
    mirror = Mirror(store, into, SERVED)
    assert held(mirror.sync()) == [3, 2]
    assert local_releases(into, SERVED) == {2, 3}
    publish_tiny(store, staging, 4)
    assert held(mirror.sync()) == [4, 3]
    assert local_releases(into, list(Part)) == {3, 4}
    assert held(local_manifests(into, SERVED)) == [4, 3]


def test_the_newest_release_arrives_first(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    store = CountingStore(disk_store.url)
    Mirror(store, into, [Part.MODEL], keep=3).sync()
    assert list(dict.fromkeys(path.split("/")[2] for path in store.read)) == ["3", "2", "1"]


def test_a_withdrawn_release_goes_and_the_one_before_comes_back(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(store, staging, release)
    mirror = Mirror(store, into, SERVED)
    mirror.sync()
    store.withdraw(3)
    assert held(mirror.sync()) == [2, 1]
    assert local_releases(into, SERVED) == {1, 2}


def test_the_last_release_goes_too_when_withdrawn(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(store, staging, 1)
    mirror = Mirror(store, into, SERVED)
    mirror.sync()
    store.withdraw(1)
    assert mirror.sync() == []
    assert local_releases(into, SERVED) == set()


def test_a_store_that_offers_nothing_takes_nothing_away(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(store, staging, 1)
    Mirror(store, into, SERVED).sync()
    emptied = Mirror(ReleaseStore(store.url + "/elsewhere"), into, SERVED)
    assert emptied.sync() == []
    assert held(emptied.local()) == [1]


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


def test_unchanged_files_are_read_once_by_each_process(
    disk_store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in (1, 2):
        publish_tiny(disk_store, staging, release)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()
    opened: list[Path] = []

    def note(path: Path) -> Iterator[bytes]:
        opened.append(path)
        return read_chunks(path)

    monkeypatch.setattr("releases.local.read_chunks", note)
    assert held(mirror.sync()) == [2, 1]
    assert held(mirror.local()) == [2, 1]
    assert opened == []
    assert held(Mirror(disk_store, into, SERVED).local()) == [2, 1]
    assert len(opened) == len(set(opened)) == 10


def test_a_fetch_removes_nothing_that_may_still_be_in_use(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(store, staging, release)
    mirror = Mirror(store, into, SERVED)
    mirror.sync()
    publish_tiny(store, staging, 4)
    assert held(mirror.fetch()) == [4, 3]
    assert local_releases(into, SERVED) == {2, 3, 4}
    assert held(mirror.fetch(without={4})) == [3, 2]
    assert held(mirror.fetch(without={4, 3})) == [2, 1]
    store.withdraw(3)
    assert held(mirror.fetch(without={4})) == [2, 1]
    assert local_releases(into, SERVED) == {1, 2, 4}
    mirror.remove_all_but([])
    assert local_releases(into, SERVED) == {1, 2, 4}
    mirror.remove_all_but([2, 1])
    assert local_releases(into, SERVED) == {1, 2}


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


def test_a_local_file_that_changes_is_repaired(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()
    path = into / "indexes/items/1/items.faiss"
    good = path.read_bytes()
    damaged = path.with_name("damaged")
    damaged.write_bytes(bytes(len(good)))
    damaged.replace(path)
    assert mirror.local() == []
    assert held(mirror.sync()) == [1]
    assert path.read_bytes() == good


def test_a_lost_local_manifest_comes_back(store: ReleaseStore, staging: Path, into: Path) -> None:
    publish_tiny(store, staging, 1)
    mirror = Mirror(store, into, SERVED)
    mirror.sync()
    (into / manifest_path(1)).unlink()
    mirror.sync()
    assert held(local_manifests(into, SERVED)) == [1]


def test_two_mirrors_of_different_parts_share_one_folder_at_rest(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    model = Mirror(disk_store, into, [Part.MODEL])
    index = Mirror(disk_store, into, [Part.INDEX])
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
        assert held(model.sync()) == held(index.sync())
    model.sync()
    stamp = (into / manifest_path(3)).stat()
    assert held(model.sync()) == held(index.sync()) == [3, 2]
    assert (into / manifest_path(3)).stat() == stamp
    assert held(local_manifests(into, SERVED)) == [3, 2]


def test_leftover_parts_without_a_manifest_are_removed(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    (into / "models/user_tower/1").mkdir(parents=True)
    publish_tiny(store, staging, 2)
    Mirror(store, into, SERVED).sync()
    assert local_releases(into, SERVED) == {2}


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


def test_local_releases_that_the_store_no_longer_lists_go(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (1, 2, 3):
        publish_tiny(store, staging, release)
    mirror = Mirror(store, into, SERVED)
    assert held(mirror.sync()) == [3, 2]
    store.remove(3)
    assert held(mirror.sync()) == [2, 1]
    assert local_releases(into, SERVED) == {1, 2}


def test_a_look_at_what_did_not_change_parses_no_manifest(
    disk_store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(disk_store, staging, 1)
    mirror = Mirror(disk_store, into, SERVED)
    mirror.sync()

    def refuse(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("releases.local.parse_manifest", refuse)
    assert held(mirror.sync()) == [1]


def test_what_is_new_is_fetched_within_the_stagger_and_not_by_all_at_once(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("releases.sync.time.monotonic", lambda: now[0])
    monkeypatch.setattr("releases.sync.random.uniform", Random(1).uniform)
    publish_tiny(disk_store, staging, 1)
    mirrors = [
        Mirror(disk_store, tmp_path / str(number), [Part.INDEX], stagger_seconds=10)
        for number in range(20)
    ]
    assert all(held(mirror.sync()) == [1] for mirror in mirrors)  # at start nothing is waited for
    publish_tiny(disk_store, staging, 2)
    fetched = []
    for _ in range(11):
        fetched.append(sum(held(mirror.sync()) == [2, 1] for mirror in mirrors))
        now[0] += 1
    assert fetched == sorted(fetched)
    assert fetched[0] < 5
    assert 5 < fetched[5] < 15
    assert fetched[-1] == 20
    disk_store.withdraw(2)
    assert all(held(mirror.sync()) == [1] for mirror in mirrors)


def test_a_withdrawn_release_stays_for_its_notice_beside_the_one_that_comes_back(
    disk_store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("releases.sync.time.monotonic", lambda: now[0])
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    mirror = Mirror(disk_store, into, [Part.MODEL], notice_seconds=2)
    assert held(mirror.sync()) == [3, 2]
    disk_store.withdraw(3)
    assert held(mirror.sync()) == [2, 1]
    now[0] += 1.9
    assert held(mirror.sync()) == [2, 1]
    assert local_releases(into, [Part.MODEL]) == {1, 2, 3}
    now[0] += 0.2
    assert held(mirror.sync()) == [2, 1]
    assert local_releases(into, [Part.MODEL]) == {1, 2}
    assert held(local_manifests(into, [Part.MODEL])) == [2, 1]


def test_what_is_answered_from_stays_and_nobody_sees_three(
    disk_store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    install = pull_module._install

    def install_and_look(directory: Path, manifest: Manifest, part: Part, to: Path) -> None:
        install(directory, manifest, part, to)
        seen.append(local_releases(into, SERVED))

    monkeypatch.setattr(pull_module, "_install", install_and_look)
    mirror = Mirror(disk_store, into, SERVED, in_use=lambda: {2})
    for release in (1, 2):
        publish_tiny(disk_store, staging, release)
    mirror.sync()
    for release in (3, 4):
        publish_tiny(disk_store, staging, release)
    assert held(mirror.sync()) == [4, 2]
    publish_tiny(disk_store, staging, 5)
    assert held(mirror.sync()) == [5, 2]
    assert seen
    assert all(len(releases) <= 2 for releases in seen)
