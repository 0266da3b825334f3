"""The loop that follows a store: what it survives, what it says, when it stops."""

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from releases.checksums import OnBytes, ignore_bytes
from releases.errors import StoreError
from releases.local import local_manifests, local_releases
from releases.manifest import Manifest
from releases.store import Listing, ReleaseStore
from releases.sync import Mirror
from releases.watch import watch
from tests.releases.mirroring import SERVED, held
from tests.support.releases import publish_tiny


class UnsteadyStore(ReleaseStore):
    """Is away while told so."""

    away = False

    def listing(self) -> Listing:
        if self.away:
            raise StoreError("no route to host")
        return super().listing()


class ReportingMirror(Mirror):
    """Puts the outcome of each sync into a queue."""

    outcomes: queue.Queue[list[int] | StoreError]

    def sync(self, on_bytes: OnBytes = ignore_bytes) -> list[Manifest]:
        try:
            manifests = super().sync(on_bytes)
        except StoreError as error:
            self.outcomes.put(error)
            raise
        self.outcomes.put(held(manifests))
        return manifests

    def wait_for(self, outcome: list[int] | type[StoreError]) -> None:
        while True:
            seen = self.outcomes.get(timeout=30)
            if seen == outcome or type(seen) is outcome:
                return


@pytest.fixture
def watched(
    disk_store: ReleaseStore, into: Path
) -> Iterator[tuple[UnsteadyStore, ReportingMirror]]:
    store = UnsteadyStore(disk_store.url)
    mirror = ReportingMirror(store, into, SERVED)
    mirror.outcomes = queue.Queue()
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(mirror.sync, 0.01, stop))
    watcher.start()
    yield store, mirror
    stop.set()
    watcher.join(timeout=30)
    assert not watcher.is_alive()


def test_watch_picks_up_a_new_release_and_drops_a_withdrawn_one(
    watched: tuple[UnsteadyStore, ReportingMirror],
    disk_store: ReleaseStore,
    staging: Path,
    into: Path,
) -> None:
    _, mirror = watched
    mirror.wait_for([])
    publish_tiny(disk_store, staging, 1)
    mirror.wait_for([1])
    publish_tiny(disk_store, staging, 2)
    mirror.wait_for([2, 1])
    disk_store.withdraw(2)
    mirror.wait_for([1])
    assert held(local_manifests(into, SERVED)) == [1]


def test_watch_outlives_a_store_that_is_away_and_says_so_once(
    watched: tuple[UnsteadyStore, ReportingMirror],
    disk_store: ReleaseStore,
    staging: Path,
    into: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, mirror = watched
    publish_tiny(disk_store, staging, 1)
    mirror.wait_for([1])
    store.away = True
    for _ in range(3):
        mirror.wait_for(StoreError)
    assert held(mirror.local()) == [1]
    store.away = False
    publish_tiny(disk_store, staging, 2)
    mirror.wait_for([2, 1])
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "cannot follow the store, will retry: no route to host"
    ]


def test_watch_outlives_what_nobody_foresaw_and_reports_each_fault_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = threading.Event()
    faults: list[Exception] = [
        ValueError("odd"), ValueError("odd"), StoreError("away"), StoreError("away"),
        OSError("disk"), ValueError("odd"),
    ]  # fmt: skip
    left = iter(faults)

    def look(_on_bytes: OnBytes) -> None:
        fault = next(left, None)
        if fault is None:
            stop.set()
            return
        raise fault

    failures: list[None] = []
    watch(look, 0, stop, lambda: failures.append(None))
    assert len(failures) == len(faults)
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("cannot follow the store, will retry: odd", True),
        ("cannot follow the store, will retry: away", False),
        ("cannot follow the store, will retry: disk", False),
        ("cannot follow the store, will retry: odd", True),
    ]


def test_watch_stops_in_the_middle_of_a_download(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    stop = threading.Event()

    class StoppingStore(ReleaseStore):
        def chunks(self, path: str) -> Iterator[bytes]:
            stop.set()
            yield from super().chunks(path)

    watch(Mirror(StoppingStore(disk_store.url), into, SERVED).sync, 3600, stop)
    assert local_releases(into, SERVED) == set()
    assert not list(into.rglob("*.partial"))
