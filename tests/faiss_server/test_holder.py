import json
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakSet

import pytest
from prometheus_client import CollectorRegistry

from faiss_server import holder as holder_module
from faiss_server import loaded as loaded_module
from faiss_server.article_index import ArticleIndex, open_article_index
from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from faiss_server.report import ServingReporter
from releases import serving as serving_module
from releases.checksums import ignore_bytes
from releases.errors import StoreError
from releases.layout import INDEX_FILE, Part, manifest_path, part_path
from releases.local import local_releases
from releases.manifest import Manifest
from releases.prune import prune
from releases.publish import publish
from releases.serving import ServingReport
from releases.split import Split
from releases.store import ReleaseStore
from releases.sync import Mirror
from service_runtime.errors import BackendUnavailableError, ReleaseNotHeldError
from tests.faiss_server.making import described_anew, make_release, publish_release

A, B, C, D = 1_700_000_101, 1_700_000_102, 1_700_000_103, 1_700_000_104


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


@pytest.fixture
def add(store: ReleaseStore, tmp_path: Path) -> Callable[..., object]:
    return lambda release, **how: publish_release(store, tmp_path / "staging", release, **how)


def ready(holder: ReleaseHolder) -> list[int]:
    return sorted(holder.held.ready)


def test_an_empty_store_leaves_nothing_held(holder: ReleaseHolder, changes: list[None]) -> None:
    holder.refresh()
    assert not holder.held.ready
    assert not holder.held.loading
    assert changes == []
    with pytest.raises(ReleaseNotHeldError, match=f"release {A} is not held; ready: none"):
        holder.get(A)


def test_the_newest_two_are_loaded_newest_first(
    holder: ReleaseHolder,
    add: Callable[..., object],
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for release in (A, B, C):
        add(release)
    order: list[int] = []

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        order.append(manifest.release)
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    holder.refresh()
    assert order == [C, B]
    assert ready(holder) == [B, C]
    assert holder.get(C).manifest.release == C
    assert metric(registry, "recsys_release", kind="index") == C
    assert metric(registry, "recsys_releases_resident", state="ready") == 2
    assert metric(registry, "recsys_releases_resident", state="loading") == 0


def test_the_oldest_is_out_of_memory_before_a_third_is_loaded(
    holder: ReleaseHolder,
    add: Callable[..., object],
    on_change: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    in_use = holder.get(A)
    used = threading.Event()
    seen: list[list[int]] = []

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        seen.append(ready(holder))
        assert used.is_set()
        with pytest.raises(BackendUnavailableError, match=f"release {C} is still loading"):
            holder.get(C)
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    dropped = threading.Event()
    on_change.append(lambda: dropped.set() if A not in holder.held.ready else None)
    add(C)
    with ThreadPoolExecutor(1) as pool:
        refreshed = pool.submit(holder.refresh)
        assert dropped.wait(10)
        # The search that holds it goes on; loading waits for it.
        assert in_use.index.lists == 16
        assert not refreshed.done()
        used.set()
        del in_use
        refreshed.result(10)
    assert seen == [[B]]
    assert ready(holder) == [B, C]


def test_a_server_that_fell_behind_skips_to_the_newest(
    holder: ReleaseHolder, add: Callable[..., object]
) -> None:
    add(A)
    holder.refresh()
    for release in (B, C, D):
        add(release)
    holder.refresh()
    assert ready(holder) == [A, D]


def test_a_release_that_callers_answer_from_makes_no_room(
    holder: ReleaseHolder,
    add: Callable[..., object],
    in_use: ReleasesInUse,
    clock: list[float],
    store: ReleaseStore,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    in_use.tell([A], [])
    add(C)
    holder.refresh()
    assert ready(holder) == [A, C]
    in_use.tell([A, C], [])
    add(D)
    for _ in range(3):
        holder.refresh()
        assert ready(holder) == [A, C]
    clock[0] += 2
    in_use.tell([C], [])
    holder.refresh()
    assert ready(holder) == [A, C]
    clock[0] += 2  # nobody has spoken of A for so long
    holder.refresh()
    assert ready(holder) == [C, D]
    store.withdraw(C)  # withdrawn is withdrawn, whoever answers from it
    holder.refresh()
    assert ready(holder) == [B, D]


def test_a_release_that_waits_is_reported_once(
    holder: ReleaseHolder,
    add: Callable[..., object],
    in_use: ReleasesInUse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    in_use.tell([A, B], [])
    add(C)
    with caplog.at_level(logging.INFO, logger="faiss_server"):
        for _ in range(3):
            holder.refresh()
    assert [record.getMessage() for record in caplog.records] == [
        f"release {C} is to come later; held: {A}, {B}"
    ]


def test_a_server_reports_changes_at_once_and_else_now_and_then(
    holder: ReleaseHolder,
    add: Callable[..., object],
    in_use: ReleasesInUse,
    store: ReleaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[ServingReport] = []
    monkeypatch.setattr(serving_module, "write_report", lambda _, report: written.append(report))
    now_ns = [10**18]
    monkeypatch.setattr("releases.serving.time.time_ns", lambda: now_ns[0])
    reporter = ServingReporter(store, holder, in_use)
    reporter.report(ignore_bytes)
    reporter.begin("faiss-1")
    reporter.report(ignore_bytes)
    reporter.report(ignore_bytes)
    add(A)
    add(B, **GOLDEN_FAILS)
    holder.refresh()
    in_use.tell([A, C], [D])
    reporter.report(ignore_bytes)
    reporter.report(ignore_bytes)
    now_ns[0] += 10**10
    reporter.report(ignore_bytes)
    empty, full, again = written
    assert empty.held == empty.in_use == empty.refused == frozenset()
    assert full.held == full.in_use == frozenset({A})
    assert full.refused == frozenset({B})
    assert again == full.model_copy(update={"reported_at_ms": full.reported_at_ms + 10_000})


def test_a_withdrawn_release_is_dropped_and_an_older_one_comes_back(
    holder: ReleaseHolder, add: Callable[..., object], store: ReleaseStore
) -> None:
    for release in (A, B, C):
        add(release)
    holder.refresh()
    store.withdraw(C)
    holder.refresh()
    assert ready(holder) == [A, B]
    with pytest.raises(ReleaseNotHeldError, match=f"release {C} is not held; ready: {B}, {A}"):
        holder.get(C)
    store.withdraw(B)
    store.withdraw(A)
    holder.refresh()
    assert ready(holder) == []


def test_a_refused_release_is_reported_once_and_the_others_stay(
    holder: ReleaseHolder,
    add: Callable[..., object],
    registry: CollectorRegistry,
    store: ReleaseStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    made = make_release(tmp_path / "wrong", C)
    publish(store, made.root, described_anew(made, article_count=699))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            holder.refresh()
    (record,) = caplog.records
    file = tmp_path / "local" / part_path(Part.INDEX, C) / INDEX_FILE
    assert record.getMessage() == (
        f"release {C} is refused: {file}: article_count is 700, the manifest says 699"
    )
    assert ready(holder) == [A, B]
    assert not holder.held.loading
    assert metric(registry, "recsys_release_refused_total", reason="index") == 1
    assert metric(registry, "recsys_release_refused_total", reason="files") == 0
    add(D)
    holder.refresh()
    assert ready(holder) == [B, D]


GOLDEN_FAILS = {"golden_queries": [{"vector": [1.0] * 8, "article_ids": [1], "scores": [99.0]}]}


def locally(tmp_path: Path) -> set[int]:
    return local_releases(tmp_path / "local", [Part.INDEX])


def test_a_release_that_turns_out_bad_gives_its_place_back(
    holder: ReleaseHolder,
    add: Callable[..., object],
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    alive = WeakSet(loaded.index for loaded in holder.held.ready.values())
    resident: list[tuple[int, int]] = []

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        resident.append((manifest.release, len(alive)))
        return load_release(manifest, root)

    def opened(path: Path, manifest: Manifest) -> ArticleIndex:
        index = open_article_index(path, manifest)
        alive.add(index)
        return index

    monkeypatch.setattr(holder_module, "load_release", load)
    monkeypatch.setattr(loaded_module, "open_article_index", opened)
    add(C, **GOLDEN_FAILS)
    for _ in range(3):
        holder.refresh()
    assert ready(holder) == [A, B]
    assert resident == [(C, 1), (A, 1)]
    assert locally(tmp_path) == {A, B}
    assert not holder.held.loading
    assert metric(registry, "recsys_release_refused_total", reason="golden_queries") == 1
    assert metric(registry, "recsys_release", kind="index") == B
    add(D)
    holder.refresh()
    assert ready(holder) == [B, D]
    assert locally(tmp_path) == {B, D}


def test_the_place_is_given_back_even_to_a_release_that_the_store_no_longer_has(
    holder: ReleaseHolder, add: Callable[..., object], store: ReleaseStore, tmp_path: Path
) -> None:
    add(A)
    add(B)
    holder.refresh()
    add(C, **GOLDEN_FAILS)
    assert prune(store, 2) == [A]
    holder.refresh()
    assert ready(holder) == [A, B]
    assert locally(tmp_path) == {A, B}


def test_in_the_place_of_a_refused_release_comes_the_next_older_one(
    holder: ReleaseHolder, add: Callable[..., object], tmp_path: Path
) -> None:
    for release in (A, B):
        add(release)
    add(C, **GOLDEN_FAILS)
    holder.refresh()
    assert ready(holder) == [A, B]
    assert locally(tmp_path) == {A, B}


def test_the_files_of_a_dropped_release_outlive_the_load_of_its_successor(
    holder: ReleaseHolder,
    add: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    seen: list[set[int]] = []

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        seen.append(locally(tmp_path))
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    add(C)
    holder.refresh()
    assert seen == [{A, B, C}]
    assert locally(tmp_path) == {B, C}


def test_a_release_that_is_withdrawn_while_its_successor_is_loaded_does_not_come_back(
    holder: ReleaseHolder,
    add: Callable[..., object],
    store: ReleaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(A)
    add(B)
    holder.refresh()

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        store.withdraw(A)
        store.withdraw(B)
        holder.look_while_busy()
        assert ready(holder) == []
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    add(C, **GOLDEN_FAILS)
    holder.refresh()
    assert ready(holder) == []


def test_a_release_that_is_withdrawn_while_it_is_loaded_does_not_enter_service(
    holder: ReleaseHolder,
    add: Callable[..., object],
    store: ReleaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        store.withdraw(A)
        holder.look_while_busy()
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    add(A)
    holder.refresh()
    assert ready(holder) == []
    assert not holder.held.loading


def test_a_split_is_seen_during_a_fetch(
    holder: ReleaseHolder, add: Callable[..., object], store: ReleaseStore
) -> None:
    split = Split(release=A, share=0.5, changed_at_ms=1)
    seen: list[Split | None] = []

    def while_fetching(_count: int) -> None:
        store.set_split(split)
        holder.look_while_busy()
        seen.append(holder.split)

    add(A)
    holder.refresh(while_fetching)
    assert seen[0] == split


def test_the_memory_of_a_dropped_release_is_freed_by_the_thread_that_follows_the_store(
    holder: ReleaseHolder,
    add: Callable[..., object],
    store: ReleaseStore,
    on_change: list[Callable[[], object]],
) -> None:
    add(A)
    holder.refresh()
    in_use = holder.get(A)
    freed_by: list[threading.Thread] = []
    weakref.finalize(in_use.index, lambda: freed_by.append(threading.current_thread()))
    dropped = threading.Event()
    on_change.append(dropped.set)
    store.withdraw(A)
    follower = threading.Thread(target=holder.refresh)
    follower.start()
    assert dropped.wait(10)
    del in_use
    follower.join(10)
    assert freed_by == [follower]


def test_a_fault_in_loading_is_a_refusal_with_a_traceback(
    holder: ReleaseHolder,
    add: Callable[..., object],
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(manifest: Manifest, root: Path) -> LoadedRelease:
        raise ZeroDivisionError

    monkeypatch.setattr(holder_module, "load_release", fail)
    add(A)
    holder.refresh()
    holder.refresh()
    assert ready(holder) == []
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert metric(registry, "recsys_release_refused_total", reason="unexpected") == 1


def flip_a_bit(store: ReleaseStore) -> None:
    path = Path(store.url) / part_path(Part.INDEX, C) / INDEX_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(store: ReleaseStore) -> None:
    path = Path(store.url) / part_path(Part.INDEX, C) / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-1])


def lose(store: ReleaseStore) -> None:
    (Path(store.url) / part_path(Part.INDEX, C) / INDEX_FILE).unlink()


def come_from_the_future(store: ReleaseStore) -> None:
    path = Path(store.url) / manifest_path(C)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, lose, come_from_the_future])
def test_what_the_mirror_refuses_is_counted_once_and_the_older_ones_stay(
    holder: ReleaseHolder,
    add: Callable[..., object],
    registry: CollectorRegistry,
    store: ReleaseStore,
    damage: Callable[[ReleaseStore], None],
) -> None:
    add(A)
    add(B)
    holder.refresh()
    add(C)
    damage(store)
    holder.refresh()
    holder.refresh()
    assert ready(holder) == [A, B]
    assert not holder.held.loading
    assert metric(registry, "recsys_release_refused_total", reason="mirror") == 1
    assert metric(registry, "recsys_release", kind="index") == B


def test_a_release_is_loading_while_it_is_fetched(
    holder: ReleaseHolder, add: Callable[..., object]
) -> None:
    add(A)
    add(B)
    seen = []
    holder.refresh(lambda _: seen.append((sorted(holder.held.loading), ready(holder))))
    assert seen[0] == ([A, B], [])
    assert not holder.held.loading


class _StopError(Exception):
    pass


def test_a_fetch_that_is_ended_leaves_nothing_loading_and_goes_on_later(
    holder: ReleaseHolder, add: Callable[..., object]
) -> None:
    def stop(_count: int) -> None:
        raise _StopError

    add(A)
    with pytest.raises(_StopError):
        holder.refresh(stop)
    assert not holder.held.loading
    holder.refresh()
    assert ready(holder) == [A]


def test_releases_on_local_disk_are_served_while_the_store_is_away(
    add: Callable[..., object],
    store: ReleaseStore,
    tmp_path: Path,
    holder: ReleaseHolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(A)
    holder.refresh()

    def away() -> None:
        raise StoreError("away")

    into = tmp_path / "local"
    monkeypatch.setattr(store, "listing", away)
    restarted = ReleaseHolder(
        store,
        Mirror(store, into, [Part.INDEX]),
        into,
        FaissServerMetrics(CollectorRegistry()),
        lambda: None,
    )
    with pytest.raises(StoreError, match="away"):
        restarted.refresh()
    assert ready(restarted) == [A]
    assert not restarted.held.loading


def test_an_idle_store_costs_one_listing_for_each_look(
    holder: ReleaseHolder,
    add: Callable[..., object],
    store: ReleaseStore,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[None],
) -> None:
    add(A)
    holder.refresh()
    calls: list[None] = []
    listing = store.listing

    def counted() -> object:
        calls.append(None)
        return listing()

    monkeypatch.setattr(store, "listing", counted)
    del changes[:]
    holder.refresh()
    assert len(calls) == 1
    assert changes == []
