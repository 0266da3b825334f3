import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from releases.errors import (
    IncompleteReleaseError,
    ManifestError,
    ReleaseError,
    ReleaseNotFoundError,
    StoreError,
)
from releases.layout import Part, manifest_path, part_path
from releases.local import at_work, local_manifests, local_releases, remove_local
from releases.manifest import Manifest
from releases.publish import publish
from releases.pull import pull
from releases.store import ReleaseStore
from tests.support.releases import manifest_of, publish_tiny, stage_files, tiny_files, tiny_release

SERVED = (Part.MODEL, Part.INDEX)
FAISS = "indexes/items/7/items.faiss"


def files_below(folder: Path) -> dict[str, bytes]:
    """Contents of everything visible, by relative path, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".pull.lock"
    }


def expected_files(*releases: int, parts: tuple[Part, ...] = SERVED) -> dict[str, bytes]:
    return {
        path: data
        for release in releases
        for path, data in tiny_files(release).items()
        if path.startswith(tuple(part_path(part, release) + "/" for part in parts))
    }


def data_files(folder: Path) -> dict[str, bytes]:
    return {p: data for p, data in files_below(folder).items() if not p.startswith("releases/")}


def test_a_pulled_release_is_complete_and_has_its_manifest(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    manifest = publish_tiny(store, staging, 7)
    assert pull(store, 7, into, SERVED) == manifest
    assert data_files(into) == expected_files(7)
    assert local_manifests(into, SERVED) == [manifest]
    assert local_manifests(into, list(Part)) == []


def test_parts_pulled_one_after_the_other_join(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    manifest = publish_tiny(store, staging, 7)
    for part in Part:
        pull(store, 7, into, [part])
    assert data_files(into) == tiny_files(7)
    assert local_manifests(into, list(Part)) == [manifest]


def test_an_unknown_release_is_not_found(store: ReleaseStore, into: Path) -> None:
    with pytest.raises(ReleaseNotFoundError):
        pull(store, 7, into, SERVED)
    assert not into.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES = [
    pytest.param(flip, "has sha256", id="bit flip"),
    pytest.param(truncate, "has 18 bytes, the manifest says 19", id="truncated"),
    pytest.param(lengthen, "is longer than", id="longer"),
    pytest.param(Path.unlink, "is missing", id="missing"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_a_damaged_store_leaves_nothing_behind(
    disk_store: ReleaseStore,
    staging: Path,
    into: Path,
    damage: Callable[[Path], None],
    problem: str,
) -> None:
    stage_files(staging, tiny_files(7) | {FAISS: b"nineteen bytes long"})
    publish(disk_store, staging, manifest_of(staging, 7))
    damage(Path(disk_store.url) / FAISS)
    with pytest.raises(IncompleteReleaseError, match=f"{FAISS}: {problem}"):
        pull(disk_store, 7, into, SERVED)
    assert files_below(into) == {}
    assert local_releases(into, SERVED) == set()


@pytest.mark.parametrize("damage", [flip, truncate, lengthen, Path.unlink])
def test_a_damaged_local_copy_is_fetched_again(
    disk_store: ReleaseStore, staging: Path, into: Path, damage: Callable[[Path], None]
) -> None:
    publish_tiny(disk_store, staging, 7)
    pull(disk_store, 7, into, SERVED)
    before = files_below(into)
    damage(into / FAISS)
    pull(disk_store, 7, into, SERVED)
    assert files_below(into) == before


def test_an_extra_local_file_is_damage(store: ReleaseStore, staging: Path, into: Path) -> None:
    publish_tiny(store, staging, 7)
    pull(store, 7, into, SERVED)
    (into / "models/user_tower/7/assets.extra").mkdir()
    (into / "models/user_tower/7/assets.extra/x").write_bytes(b"x")
    pull(store, 7, into, SERVED)
    assert data_files(into) == expected_files(7)


def test_a_local_copy_that_cannot_be_repaired_is_taken_away(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    pull(disk_store, 7, into, [Part.INDEX])
    flip(into / FAISS)
    flip(Path(disk_store.url) / FAISS)
    with pytest.raises(IncompleteReleaseError):
        pull(disk_store, 7, into, [Part.INDEX])
    assert files_below(into) == {}


def test_a_sound_local_copy_is_not_fetched_again(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(store, staging, 7)
    counts: list[int] = []
    pull(store, 7, into, SERVED, counts.append)
    assert sum(counts) == sum(len(data) for data in expected_files(7).values())
    pull(store, 7, into, SERVED, lambda _: pytest.fail("fetched again"))


def test_a_manifest_of_the_future_is_refused(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    path = Path(disk_store.url) / manifest_path(7)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ManifestError, match=r"releases/7\.json: schema_version: "):
        pull(disk_store, 7, into, SERVED)
    assert files_below(into) == {}


def test_a_manifest_that_points_outside_writes_nothing_there(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 7)
    path = Path(disk_store.url) / manifest_path(7)
    path.write_text(path.read_text().replace(FAISS, "indexes/items/7/../../../../escaped"))
    with pytest.raises(ManifestError, match="not a relative path below the store"):
        pull(disk_store, 7, into, SERVED)
    assert not into.exists()
    assert not list(into.parent.glob("escaped"))


class FailingStore(ReleaseStore):
    """Loses its connection in the middle of one file."""

    def chunks(self, path: str) -> Iterator[bytes]:
        for chunk in super().chunks(path):
            yield chunk[:1]
            raise StoreError("connection lost")


def test_a_lost_connection_leaves_nothing_behind(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(store, staging, 7)
    with pytest.raises(StoreError, match="connection lost"):
        pull(FailingStore(store.url), 7, into, SERVED)
    assert files_below(into) == {}


def test_a_full_disk_leaves_nothing_behind_and_is_named(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    stage_files(staging, tiny_files(7) | {FAISS: bytes(200_000)})
    publish(store, staging, manifest_of(staging, 7))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ReleaseError, match=f"{into}: cannot take release 7: File too large"):
            pull(store, 7, into, SERVED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_below(into) == {}


def test_what_a_dead_pull_left_is_cleared_up(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(store, staging, 7)
    stage_files(
        into,
        {
            "indexes/items/.7.dead.partial/items.faiss": b"half",
            "models/user_tower/.6.dead.partial/variables/x": b"half",
            "releases/.7.json.dead.partial": b"{",
        },
    )
    pull(store, 7, into, SERVED)
    assert data_files(into) == expected_files(7)
    assert not list(into.rglob("*.partial"))


def test_what_a_live_pull_is_writing_stays(store: ReleaseStore, staging: Path, into: Path) -> None:
    publish_tiny(store, staging, 7)
    live = into / "indexes/items/.8.live.partial"
    with at_work(into):
        live.mkdir(parents=True)
        pull(store, 7, into, SERVED)
        assert live.exists()
    pull(store, 7, into, SERVED)
    assert not live.exists()


class MeetingStore(ReleaseStore):
    """Holds every reader at the end of each file until the others are there too."""

    def __init__(self, url: str, meeting: threading.Barrier) -> None:
        super().__init__(url)
        self._meeting = meeting

    def chunks(self, path: str) -> Iterator[bytes]:
        yield from super().chunks(path)
        self._meeting.wait(timeout=30)


def test_pulls_that_finish_at_the_same_moment_all_succeed(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    manifest = publish_tiny(disk_store, staging, 7)
    meeting = threading.Barrier(3)
    pulled: list[Manifest] = []

    def run() -> None:
        pulled.append(pull(MeetingStore(disk_store.url, meeting), 7, into, SERVED))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pulled == [manifest] * 3
    assert data_files(into) == expected_files(7)


def test_two_processes_may_pull_into_one_place(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (7, 8):
        publish_tiny(disk_store, staging, release)
    command = [sys.executable, "-m", "releases", "pull", "--store", disk_store.url]
    processes = [
        subprocess.Popen([*command, "--into", str(into), "--part", part], text=True)
        for part in ("model", "model", "index")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert data_files(into) == expected_files(7, 8)
    assert {m.release for m in local_manifests(into, SERVED)} == {7, 8}


def test_removal_takes_the_manifest_and_the_named_parts(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    for release in (7, 8):
        publish_tiny(store, staging, release)
        pull(store, release, into, SERVED)
    remove_local(into, 7, [Part.MODEL])
    remove_local(into, 7, [Part.MODEL])
    assert {m.release for m in local_manifests(into, [Part.INDEX])} == {8}
    assert local_releases(into, [Part.MODEL]) == {8}
    assert local_releases(into, [Part.INDEX]) == {7, 8}


def test_an_unreadable_local_manifest_counts_as_absent(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    manifest = publish_tiny(store, staging, 7)
    pull(store, 7, into, SERVED)
    (into / manifest_path(7)).write_bytes(b"{")
    assert local_manifests(into, SERVED) == []
    pull(store, 7, into, SERVED)
    assert local_manifests(into, SERVED) == [manifest]


def test_a_manifest_without_files_of_a_part_cannot_be_pulled(
    store: ReleaseStore, staging: Path, into: Path
) -> None:
    manifest = tiny_release(staging, 7)
    bare = manifest.model_copy(update={"files": manifest.part_files(Part.MODEL)})
    store.create(manifest_path(7), bare.model_dump_json().encode())
    with pytest.raises(IncompleteReleaseError, match="names no files"):
        pull(store, 7, into, [Part.INDEX])
    assert files_below(into) == {}


def test_others_may_read_what_was_pulled(store: ReleaseStore, staging: Path, into: Path) -> None:
    """The model server may run as another user than the side-car."""
    publish_tiny(store, staging, 7)
    pull(store, 7, into, SERVED)
    plain = into / "plain"
    plain.mkdir()
    pulled = into / part_path(Part.MODEL, 7)
    assert pulled.stat().st_mode == plain.stat().st_mode


def test_a_removal_that_dies_leaves_no_half_empty_release(
    store: ReleaseStore, staging: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(store, staging, 7)
    pull(store, 7, into, SERVED)

    def die(path: Path) -> None:
        next(path.rglob("saved_model.pb")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("releases.local.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove_local(into, 7, [Part.MODEL])
    assert local_releases(into, [Part.MODEL]) == set()
    assert local_manifests(into, [Part.INDEX]) == []
    pull(store, 7, into, SERVED)
    assert data_files(into) == expected_files(7)
    assert not list(into.rglob("*.partial"))
