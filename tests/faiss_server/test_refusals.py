"""Bad releases: refused with a reason, and they cost nothing that is held."""

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

import pytest
from prometheus_client import CollectorRegistry

from faiss_server import holder as holder_module
from faiss_server import loaded as loaded_module
from faiss_server.article_index import ArticleIndex, open_article_index
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.holder import ReleaseHolder
from faiss_server.loaded import LoadedRelease, load_release
from releases.layout import INDEX_FILE, Part, manifest_path, part_path
from releases.manifest import Manifest
from releases.prune import prune
from releases.publish import publish
from releases.store import ReleaseStore
from tests.faiss_server.holding import GOLDEN_FAILS, A, B, C, D, locally, metric, ready
from tests.faiss_server.making import described_anew, make_release


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


@pytest.mark.parametrize(
    ("fault", "lasts"),
    [
        (MemoryError(), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (ReleaseRefusedError(RefusalReason.FILES, "Too many open files"), False),
        (ReleaseRefusedError(RefusalReason.INDEX, "another index"), True),
        (ReleaseRefusedError(RefusalReason.GOLDEN_QUERIES, "other answers"), True),
        (ReleaseRefusedError(RefusalReason.TABLES, "malformed"), True),
    ],
)
def test_what_may_have_passed_is_tried_again_after_a_while(
    holder: ReleaseHolder,
    add: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    lasts: bool,
) -> None:
    add(A)
    add(B)
    now, tried, faults = [1000.0], list[int](), [fault]

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        tried.append(manifest.release)
        if manifest.release == B and faults:
            raise faults.pop()
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    monkeypatch.setattr("faiss_server.holder.time.monotonic", lambda: now[0])
    holder.refresh()
    now[0] += 599
    holder.refresh()
    assert (tried, ready(holder), set(holder.refused)) == ([B, A], [A], {B})
    now[0] += 1
    holder.refresh()
    assert tried == ([B, A] if lasts else [B, A, B])
    assert ready(holder) == ([A] if lasts else [A, B])
    assert holder.refused == ({B} if lasts else set())


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
