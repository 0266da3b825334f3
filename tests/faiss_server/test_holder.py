"""Which releases are held, as the store changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from faiss_server import holder as holder_module
from faiss_server.holder import ReleaseHolder
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from faiss_server.search import SearchQuery
from releases.errors import StoreError
from releases.layout import Part
from releases.manifest import Manifest
from releases.split import Split
from releases.store import ReleaseStore
from releases.sync import Mirror
from service_runtime.errors import ReleaseNotHeldError
from tests.faiss_server.holding import A, B, C, metric, ready
from tests.faiss_server.making import Made


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


def test_a_withdrawn_release_is_no_longer_told_and_still_searched_until_its_notice_is_over(
    store: ReleaseStore,
    add: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    into = tmp_path / "local"
    mirror = Mirror(store, into, [Part.INDEX])
    metrics = FaissServerMetrics(CollectorRegistry())
    holder = ReleaseHolder(store, mirror, into, metrics, lambda: None, notice_seconds=30)
    add(A)
    holder.refresh()
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        assert ready(holder) == []
        assert holder.get(A).manifest.release == A

    monkeypatch.setattr("faiss_server.departing.time.sleep", sleep)
    store.withdraw(A)
    holder.refresh()
    assert 29 < naps[0] <= 30
    assert len(naps) == 1
    with pytest.raises(ReleaseNotHeldError):
        holder.get(A)


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


def answered(loaded: LoadedRelease) -> set[int]:
    """What a search of everything answers."""
    everything = SearchQuery(np.zeros((1, 8), np.float32), 700, loaded.index.lists)
    return set(loaded.searcher.search(everything).article_ids.tolist())


@pytest.fixture
def gone() -> list[int]:
    """What is taken down, for a test to change."""
    return []


@pytest.fixture
def leaving_out(store: ReleaseStore, tmp_path: Path, gone: list[int]) -> ReleaseHolder:
    """A holder whose releases leave out what is gone, and give 30 s of notice."""
    into = tmp_path / "local"
    return ReleaseHolder(
        store, Mirror(store, into, [Part.INDEX]), into, FaissServerMetrics(CollectorRegistry()),
        lambda: None, notice_seconds=30, taken_down=lambda: np.array(gone, np.int64),
    )  # fmt: skip


@pytest.mark.parametrize("before_it_is_read", [True, False])
def test_what_is_taken_down_while_a_release_is_loaded_is_not_in_it(
    leaving_out: ReleaseHolder,
    add: Callable[..., Made],
    gone: list[int],
    monkeypatch: pytest.MonkeyPatch,
    before_it_is_read: bool,
) -> None:
    articles = add(A).article_ids.tolist()

    def take_down() -> None:
        gone.extend(articles[:3])
        leaving_out.leave_out_what_is_taken_down()

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        if before_it_is_read:
            take_down()
        loaded = load_release(manifest, root)
        if not before_it_is_read:
            take_down()
        return loaded

    monkeypatch.setattr(holder_module, "load_release", load)
    leaving_out.refresh()
    assert answered(leaving_out.get(A)) == set(articles[3:])


def test_what_is_taken_down_during_the_notice_of_a_withdrawn_release_is_not_in_it(
    leaving_out: ReleaseHolder,
    add: Callable[..., Made],
    store: ReleaseStore,
    gone: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    articles = add(A).article_ids.tolist()
    leaving_out.refresh()
    found: list[set[int]] = []

    def sleep(_seconds: float) -> None:
        for count in (3, 0):
            gone[:] = articles[:count]
            leaving_out.leave_out_what_is_taken_down()
            found.append(answered(leaving_out.get(A)))

    monkeypatch.setattr("faiss_server.departing.time.sleep", sleep)
    store.withdraw(A)
    leaving_out.refresh()
    assert found == [set(articles[3:]), set(articles)]


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


def started_anew(store: ReleaseStore, into: Path) -> ReleaseHolder:
    """Take what an earlier process left in `into`."""
    mirror = Mirror(store, into, [Part.INDEX])
    metrics = FaissServerMetrics(CollectorRegistry())
    return ReleaseHolder(store, mirror, into, metrics, lambda: None)


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

    monkeypatch.setattr(store, "listing", away)
    restarted = started_anew(store, tmp_path / "local")
    with pytest.raises(StoreError, match="away"):
        restarted.refresh()
    assert ready(restarted) == [A]
    assert not restarted.held.loading


def test_releases_on_local_disk_are_served_where_the_store_looks_empty(
    add: Callable[..., object],
    store: ReleaseStore,
    tmp_path: Path,
    holder: ReleaseHolder,
) -> None:
    add(A)
    add(B)
    holder.refresh()
    mounted, elsewhere = Path(store.url), tmp_path / "elsewhere"
    mounted.rename(elsewhere)
    restarted = started_anew(store, tmp_path / "local")
    restarted.refresh()
    assert ready(restarted) == [A, B]
    elsewhere.rename(mounted)
    store.withdraw(B)
    restarted.refresh()
    assert ready(restarted) == [A]


def test_what_is_withdrawn_is_not_taken_from_local_disk(
    add: Callable[..., object],
    store: ReleaseStore,
    tmp_path: Path,
    holder: ReleaseHolder,
    changes: list[None],
) -> None:
    add(A)
    into = tmp_path / "local"
    Mirror(store, into, [Part.INDEX]).sync()
    store.withdraw(A)
    holder.refresh()
    assert changes == []


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
