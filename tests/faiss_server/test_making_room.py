"""Two releases in memory at the most: which of them goes, when, and what nobody may push out."""

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faiss_server import holder as holder_module
from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.loaded import LoadedRelease, load_release
from releases.manifest import Manifest
from releases.store import ReleaseStore
from service_runtime.errors import BackendUnavailableError
from tests.faiss_server.holding import A, B, C, D, locally, ready


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


def test_what_one_caller_refuses_makes_room_whoever_answers_from_it(
    holder: ReleaseHolder, add: Callable[..., object], in_use: ReleasesInUse
) -> None:
    add(A)
    add(B)
    holder.refresh()
    in_use.tell([A], [])
    in_use.tell([B], [])
    in_use.tell([], [B])
    add(C)
    holder.refresh()
    assert ready(holder) == [A, C]


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
