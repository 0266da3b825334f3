"""Whatever is published, damaged, withdrawn, pruned and pulled, in whatever order."""

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from releases.ahead import copy_ahead, describe_ahead, discard_copy
from releases.errors import (
    IncompleteReleaseError,
    ReleaseClaimedError,
    ReleaseExistsError,
    ReleaseNotFoundError,
    StoreError,
)
from releases.layout import MANIFESTS, Part, manifest_path, part_path
from releases.local import local_releases
from releases.prune import prune
from releases.publish import publish
from releases.store import ReleaseStore
from releases.sync import Mirror
from releases.verify import verify
from tests.support.releases import publish_tiny, tiny_files, tiny_release

SERVED = (Part.MODEL, Part.INDEX)
KEEP = 2

releases = st.integers(1, 9)
contents = st.sampled_from(["a", "b"])
parts = st.sampled_from(Part)
damages = st.sampled_from(["changed", "truncated", "missing"])


class DyingStore(ReleaseStore):
    uploads_left = 0

    def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        self.uploads_left -= 1
        if self.uploads_left < 0:
            raise StoreError("connection lost")
        super().write(path, chunks, size)


class InterruptedSyncError(Exception):
    pass


def damage_file(path: Path, how: str) -> None:
    """Replace a file, as a restored backup would; its new inode is what a mirror notices."""
    data = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(b"~" + data[1:])
    elif how == "truncated":
        path.write_bytes(data[:-1])


def part_files(files: dict[str, bytes], release: int, part: Part) -> dict[str, bytes]:
    home = part_path(part, release) + "/"
    return {path: data for path, data in files.items() if path.startswith(home)}


def files_on_disk(root: Path, release: int, part: Part) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / part_path(part, release)).rglob("*")
        if path.is_file()
    }


class Interleavings(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.root, self.into = self.home / "store", self.home / "local"
        self.store = ReleaseStore(self.root.as_uri())
        self.files: dict[int, dict[str, bytes]] = {}
        self.published: set[int] = set()
        self.withdrawn: set[int] = set()
        self.claimed: dict[int, str] = {}
        self.ahead: set[int] = set()
        self.in_use: set[int] = set()
        self.damaged_in_store: set[tuple[int, Part]] = set()
        self.damaged_locally: set[tuple[int, Part]] = set()
        self.restart()

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    @property
    def usable(self) -> list[int]:
        return sorted(self.published - self.withdrawn, reverse=True)

    @rule(release=releases, content=contents, take_over=st.booleans())
    def publish(self, release: int, content: str, *, take_over: bool) -> None:
        if release in self.files and release not in self.published:
            return  # an id that was pruned is not given again
        staging = Path(tempfile.mkdtemp(dir=self.home))
        manifest = tiny_release(staging, release, content)
        if self._is_published_so(release, content):
            publish(self.store, staging, manifest, take_over=take_over)
            return
        if (error := self._hindrance(release, content, take_over=take_over)) is not None:
            with pytest.raises(error):
                publish(self.store, staging, manifest, take_over=take_over)
            return
        publish(self.store, staging, manifest, take_over=take_over)
        self.published.add(release)
        self.claimed.pop(release, None)
        self.ahead.discard(release)
        self.files[release] = tiny_files(release, content)

    @rule(release=releases, content=contents, uploads=st.integers(0, 6))
    def die_while_publishing(self, release: int, content: str, uploads: int) -> None:
        if release in self.files and release not in self.published:
            return  # an id that was pruned is not given again
        store = DyingStore(self.store.url)
        store.uploads_left = uploads
        staging = Path(tempfile.mkdtemp(dir=self.home))
        if self._is_published_so(release, content):
            publish_tiny(store, staging, release, content)
            return
        if (error := self._hindrance(release, content, take_over=False)) is not None:
            with pytest.raises(error):
                publish_tiny(store, staging, release, content)
            return
        self.claimed[release] = content
        self.ahead.discard(release)
        if self._missing(release, tiny_files(release, content)) > uploads:
            with pytest.raises(StoreError):
                publish_tiny(store, staging, release, content)
            return
        publish_tiny(store, staging, release, content)  # earlier attempts had done the rest
        del self.claimed[release]
        self.published.add(release)
        self.files[release] = tiny_files(release, content)

    def _is_published_so(self, release: int, content: str) -> bool:
        """Whether publishing this once more is well, and does nothing."""
        return release in self.usable and self.files[release] == tiny_files(release, content)

    def _missing(self, release: int, files: dict[str, bytes]) -> int:
        there = {
            path: data
            for part in Part
            for path, data in files_on_disk(self.root, release, part).items()
        }
        return sum(there.get(path) != data for path, data in files.items())

    @rule(release=releases, content=contents, uploads=st.integers(0, 6))
    def copy_ahead(self, release: int, content: str, uploads: int) -> None:
        if release in self.files and release not in self.published:
            return  # an id that was pruned is not given again
        store = DyingStore(self.store.url)
        store.uploads_left = uploads
        staging = Path(tempfile.mkdtemp(dir=self.home))
        tiny_release(staging, release, content)
        files = describe_ahead(staging, release)
        if (error := self._hindrance(release, content, take_over=False)) is not None:
            with pytest.raises(error):
                copy_ahead(ReleaseStore(str(staging)), store, release, files)
            return
        ours = {entry.path: (staging / entry.path).read_bytes() for entry in files}
        dies = self._missing(release, ours) > uploads
        with pytest.raises(StoreError) if dies else nullcontext():
            copy_ahead(ReleaseStore(str(staging)), store, release, files)
        if release not in self.claimed:
            self.ahead.add(release)
        self.claimed[release] = content

    @rule(release=releases)
    def discard_the_copy(self, release: int) -> None:
        assert discard_copy(self.store, release) == (release in self.ahead)
        if release in self.ahead:
            self.ahead.remove(release)
            del self.claimed[release]
            assert self.store.file_sizes(release) == {}

    def _hindrance(self, release: int, content: str, *, take_over: bool) -> type[Exception] | None:
        if release in self.published:
            return ReleaseExistsError
        claimed_by_others = self.claimed.get(release, content) != content
        return ReleaseClaimedError if claimed_by_others and not take_over else None

    @rule(release=releases)
    def withdraw(self, release: int) -> None:
        if release in self.published:
            self.store.withdraw(release)
            self.withdrawn.add(release)
        else:
            with pytest.raises(ReleaseNotFoundError):
                self.store.withdraw(release)

    @rule(keep=st.integers(2, 3))
    def prune(self, keep: int) -> None:
        removed = set(prune(self.store, keep))
        kept = self.usable[:keep]
        old = {release for release in self.published if kept and release < kept[-1]}
        assert removed & self.published == old
        assert all(release < kept[-1] for release in removed)
        self.published -= old
        self.claimed = {r: content for r, content in self.claimed.items() if r not in removed}
        self.withdrawn -= old

    @precondition(lambda self: self.published)
    @rule(data=st.data(), part=parts, how=damages)
    def damage_the_store(self, data: st.DataObject, part: Part, how: str) -> None:
        release = data.draw(st.sampled_from(sorted(self.published)))
        if (release, part) not in self.damaged_in_store:
            path = data.draw(st.sampled_from(sorted(files_on_disk(self.root, release, part))))
            damage_file(self.root / path, how)
            self.damaged_in_store.add((release, part))

    @precondition(lambda self: bool(local_releases(self.into, SERVED)))
    @rule(data=st.data(), how=damages)
    def damage_the_local_copy(self, data: st.DataObject, how: str) -> None:
        release = data.draw(st.sampled_from(sorted(local_releases(self.into, SERVED))))
        part = data.draw(st.sampled_from(SERVED))
        if files := sorted(files_on_disk(self.into, release, part)):
            damage_file(self.into / data.draw(st.sampled_from(files)), how)
            self.damaged_locally.add((release, part))

    @rule()
    def restart(self) -> None:
        self.mirror = Mirror(
            self.store, self.into, SERVED, keep=KEEP, in_use=lambda: self.in_use, retry_seconds=0
        )

    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        """Callers answer from some of what is there; seldom from more than one."""
        here = sorted(local_releases(self.into, SERVED))
        self.in_use = set(data.draw(st.lists(st.sampled_from(here), max_size=2))) if here else set()

    @rule()
    def sync(self) -> None:
        before = local_releases(self.into, SERVED)
        present = self._present()
        obtainable = {r for r in self.usable if r in present or self._obtainable_whole(r)}
        held = [manifest.release for manifest in self.mirror.sync()]
        self._check_choice(held, present, obtainable)
        assert set(self.mirror.refused) <= set(self.usable) - obtainable
        self._notice_repairs()
        assert not {release for release, _ in self.damaged_locally} & set(held)
        local = local_releases(self.into, SERVED)
        assert local == set(held) if held else local <= before - self.withdrawn
        assert [manifest.release for manifest in self.mirror.local()] == held or not held

    def _check_choice(self, held: list[int], present: set[int], obtainable: set[int]) -> None:
        """What is in use stays; else the newest comes, then what is there, then older ones."""
        if not self.usable:
            assert held == []
            return
        assert held == sorted(held, reverse=True)
        assert len(held) == min(KEEP, len(present | obtainable))
        busy = sorted(present & self.in_use, reverse=True)[:KEEP]
        assert set(busy) <= set(held)
        if len(busy) < KEEP and obtainable:
            newest = max(obtainable)
            assert newest in held
            stays = present - {newest}
            assert len(stays & set(held)) == min(len(stays), KEEP - 1)

    def _present(self) -> set[int]:
        """Releases that are whole on local disk, manifest too."""
        return {
            release
            for release in local_releases(self.into, SERVED) - self.withdrawn
            if (self.into / manifest_path(release)).exists()
            and all(
                files_on_disk(self.into, release, part)
                == part_files(self.files[release], release, part)
                for part in SERVED
            )
        }

    def _obtainable_whole(self, release: int) -> bool:
        return all(self._obtainable(release, part) for part in SERVED)

    def _obtainable(self, release: int, part: Part) -> bool:
        here = files_on_disk(self.into, release, part)
        return (release, part) not in self.damaged_in_store or (
            here == part_files(self.files[release], release, part)
        )

    @rule(chunks=st.integers(0, 8))
    def die_while_syncing(self, chunks: int) -> None:
        left = chunks

        def die(_count: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedSyncError

        try:
            self.mirror.sync(die)
        except InterruptedSyncError:
            self.restart()
        self._notice_repairs()

    def _notice_repairs(self) -> None:
        """Damage that was repaired, or taken away, must not come back unnoticed."""
        self.damaged_locally = {
            (release, part)
            for release, part in self.damaged_locally
            if (self.into / part_path(part, release)).exists()
            and files_on_disk(self.into, release, part)
            != part_files(self.files[release], release, part)
        }

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        release = data.draw(st.sampled_from(sorted(self.published)))
        if any((release, part) in self.damaged_in_store for part in Part):
            with pytest.raises(IncompleteReleaseError):
                verify(self.store, release)
        else:
            assert verify(self.store, release).release == release

    @invariant()
    def the_store_lists_what_was_published(self) -> None:
        assert self.store.published() == sorted(self.published, reverse=True)
        assert self.store.withdrawn() == self.withdrawn
        assert self.store.usable() == self.usable

    @invariant()
    def every_claim_is_of_somebody(self) -> None:
        assert self.store.claimed() == self.claimed.keys()

    @invariant()
    def nothing_published_is_ever_overwritten(self) -> None:
        for release in self.published:
            for part in Part:
                if (release, part) not in self.damaged_in_store:
                    assert files_on_disk(self.root, release, part) == part_files(
                        self.files[release], release, part
                    )

    @invariant()
    def nothing_incomplete_is_ever_visible(self) -> None:
        assert not list(self.into.rglob("*.partial"))
        for part in SERVED:
            for release in local_releases(self.into, [part]):
                if (release, part) not in self.damaged_locally:
                    assert files_on_disk(self.into, release, part) == part_files(
                        self.files[release], release, part
                    )

    @invariant()
    def a_local_manifest_means_that_every_part_is_there(self) -> None:
        for manifest in (self.into / MANIFESTS).glob("*.json"):
            for part in SERVED:
                assert int(manifest.stem) in local_releases(self.into, [part])


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
