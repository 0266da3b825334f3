"""What a mirror holds, as the store changes."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from releases import pull as pull_module
from releases.checksums import read_chunks
from releases.layout import Part, manifest_path
from releases.local import local_manifests, local_releases
from releases.manifest import Manifest
from releases.store import ReleaseStore
from releases.sync import Mirror
from tests.releases.mirroring import SERVED, CountingStore, held
from tests.support.releases import publish_tiny


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


def test_a_withdrawn_release_stays_for_its_notice_and_nothing_new_comes_beside_it(
    disk_store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("releases.sync.time.monotonic", lambda: now[0])
    for release in (1, 2, 3):
        publish_tiny(disk_store, staging, release)
    mirror = Mirror(disk_store, into, [Part.MODEL], notice_seconds=2)
    assert held(mirror.sync()) == [3, 2]
    disk_store.withdraw(3)
    assert held(mirror.sync()) == [2]
    publish_tiny(disk_store, staging, 4)
    now[0] += 1.9
    assert held(mirror.sync()) == [2]
    # Whoever serves the newest two of the folder still serves 2, which is answered from now.
    assert local_releases(into, [Part.MODEL]) == {2, 3}
    now[0] += 0.2
    assert held(mirror.sync()) == [4, 2]
    assert local_releases(into, [Part.MODEL]) == {2, 4}


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
