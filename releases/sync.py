"""Keeping the newest releases of a store on local disk."""

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from releases.checksums import OnBytes, files_of, ignore_bytes
from releases.choice import releases_to_hold
from releases.errors import (
    IncompleteReleaseError,
    LocalDiskError,
    ManifestError,
    ReleaseNotFoundError,
)
from releases.layout import Part, manifest_path, part_path
from releases.local import local_manifests, local_problems, local_releases, remove_local
from releases.manifest import Manifest
from releases.pull import pull
from releases.store import ReleaseStore

__all__ = ["Mirror"]

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, size, time of change and inode of every file: differs once any file was touched."""


@dataclass(frozen=True)
class _Verified:
    manifest: Manifest
    stamp: _Stamp


@dataclass(frozen=True)
class _Refusal:
    message: str
    retry_at: float


class Mirror:
    """Holds parts of `keep` usable releases of a store below a local folder: the newest, and of the
    others those that are there and `in_use` rather than newer ones that are not.

    Remembers which files this process has verified, and reads them again only when they change.
    A refused release is tried again after `retry_seconds`: it may be gigabytes. After the local
    disk refused one nothing is fetched for `disk_retry_seconds`: room is soon made by somebody.
    What is newer than all that is there is fetched after a random part of `stagger_seconds`, so
    that replicas do not all load it at the same moment. A withdrawn one stays for `notice_seconds`,
    so that whoever answers from it leaves before it is gone; until then nothing new is fetched.
    """

    def __init__(  # noqa: PLR0913 - each has a user
        self,
        store: ReleaseStore,
        into: Path,
        parts: Collection[Part],
        *,
        keep: int = 2,
        in_use: Callable[[], Collection[int]] = frozenset,
        retry_seconds: float = 600.0,
        disk_retry_seconds: float = 10.0,
        stagger_seconds: float = 0.0,
        notice_seconds: float = 0.0,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, it must be at least 1")
        self._store = store
        self._into = into
        self._parts = tuple(parts)
        self._keep = keep
        self._in_use = in_use
        self._retry_seconds = retry_seconds
        self._disk_retry_seconds = disk_retry_seconds
        self._stagger_seconds = stagger_seconds
        self._notice_seconds = notice_seconds
        self._fetch_at: dict[int, float] = {}
        self._remove_at: dict[int, float] = {}
        self._verified: dict[int, _Verified] = {}
        self._refusals: dict[int, _Refusal] = {}
        self._disk_refusal: _Refusal | None = None

    @property
    def refused(self) -> dict[int, str]:
        """Releases that would be held but failed verification, and why."""
        return {release: refusal.message for release, refusal in dict(self._refusals).items()}

    def sync(self, on_bytes: OnBytes = ignore_bytes) -> list[Manifest]:
        """Bring the local folder up to date; returns what it holds now, newest first.

        The newest release arrives first. Withdrawn ones go after their notice, others when one
        that takes their place is about to appear: there are never more than `keep`, so whoever
        follows the folder does not take the newest `keep` for another choice than this one. Raises
        StoreError or ReleaseError; what was held stays.
        """
        held = self._follow(on_bytes, (), make_room=self.remove_all_but)
        self.remove_all_but(manifest.release for manifest in held)
        return held

    def fetch(
        self, on_bytes: OnBytes = ignore_bytes, *, without: Collection[int] = ()
    ) -> list[Manifest]:
        """Do as `sync` does, but remove only withdrawn releases.

        For those who use what is on local disk: they may still refuse a new release, go back to
        the one before it, and ask again `without` those that they refused.
        """
        return self._follow(on_bytes, without, make_room=lambda _: None)

    def remove_all_but(self, releases: Iterable[int]) -> None:
        """Remove other releases from local disk; does nothing where none is named.

        So a store that offers nothing (a wrong address, an emptied bucket) takes nothing away.
        """
        if kept := set(releases):
            on_notice = self._remove_at.keys()  # they go in their own time
            self._remove(local_releases(self._into, self._parts) - kept - on_notice)

    def on_disk(self) -> set[int]:
        """Releases of which all parts are on local disk, verified by this process or not.

        From any thread, also while another one syncs.
        """
        return {
            release
            for release in local_releases(self._into, self._parts)
            if all((self._into / part_path(part, release)).is_dir() for part in self._parts)
        }

    def local(self) -> list[Manifest]:
        """Verified releases on local disk, newest first, without asking the store."""
        return [
            manifest
            for manifest in local_manifests(self._into, self._parts)
            if self._is_verified(manifest.release) or self._verify(manifest)
        ]

    def _follow(
        self,
        on_bytes: OnBytes,
        without: Collection[int],
        make_room: Callable[[Iterable[int]], object],
    ) -> list[Manifest]:
        listing = self._store.listing()
        self._remove_withdrawn(listing.withdrawn)
        present = self._present() - listing.withdrawn
        if listing.usable:  # else it may be the wrong store
            present &= set(listing.usable)
        offered = self._due(listing.usable, newest=max(present, default=None))
        if self._remove_at:
            # Beside one that is about to go, a new one would push out what is answered from.
            offered = [release for release in offered if release in present]
        failed: set[int] = set(without)
        while True:
            usable = [release for release in offered if release not in failed]
            wanted = self._wanted(usable, present - failed)
            held = []
            for release in wanted:
                manifest = self._hold(release, on_bytes, partial(make_room, wanted))
                if manifest is None:
                    failed.add(release)
                    break
                held.append(manifest)
            else:
                self._forget_refusals(listing.usable, held)
                return held

    def _remove_withdrawn(self, withdrawn: Collection[int]) -> None:
        now = time.monotonic()
        there = local_releases(self._into, self._parts) & set(withdrawn)
        later = now + self._notice_seconds
        remove_at = {release: self._remove_at.get(release, later) for release in there}
        self._remove_at = {release: at for release, at in remove_at.items() if at > now}
        self._remove(there - self._remove_at.keys())

    def _present(self) -> set[int]:
        """Releases that are verified on local disk; manifests are parsed only after a change."""
        found = local_releases(self._into, self._parts)
        if all(map(self._is_verified, found)):
            return found
        return {manifest.release for manifest in self.local()}

    def _forget_refusals(self, usable: Sequence[int], held: Sequence[Manifest]) -> None:
        """Remember only refusals of what would else be held."""
        oldest = min((manifest.release for manifest in held), default=0)
        self._refusals = {
            release: refusal
            for release, refusal in self._refusals.items()
            if release in usable and release > oldest
        }

    def _due(self, usable: Sequence[int], newest: int | None) -> list[int]:
        """Leave out what is to be fetched later; a server that holds nothing waits for nothing."""
        if newest is None:
            return list(usable)
        now = time.monotonic()
        news = [release for release in usable if release > newest]
        later = now + random.uniform(0, self._stagger_seconds)  # noqa: S311 - no secret
        self._fetch_at = {release: self._fetch_at.get(release, later) for release in news}
        return [release for release in usable if self._fetch_at.get(release, now) <= now]

    def _wanted(self, usable: Sequence[int], present: Collection[int]) -> list[int]:
        # Who uses what is asked only where it matters: it may be a look at many small files.
        crowded = len({*present, *usable[:1]}) > self._keep
        return releases_to_hold(usable, present, self._in_use() if crowded else (), self._keep)

    def _hold(
        self, release: int, on_bytes: OnBytes, make_room: Callable[[], object]
    ) -> Manifest | None:
        if self._is_verified(release):
            return self._verified[release].manifest
        refusal = self._refusals.get(release)
        if refusal is not None and time.monotonic() < refusal.retry_at:
            return None
        if self._disk_refusal is not None and time.monotonic() < self._disk_refusal.retry_at:
            raise LocalDiskError(self._disk_refusal.message)
        try:
            manifest = pull(self._store, release, self._into, self._parts, on_bytes, make_room)
        except LocalDiskError as error:
            retry_at = time.monotonic() + self._disk_retry_seconds
            self._disk_refusal = _Refusal(str(error), retry_at)
            raise
        except ReleaseNotFoundError:
            return None  # pruned since it was listed
        except (IncompleteReleaseError, ManifestError) as error:
            self._refuse(release, str(error))
            return None
        self._remember(manifest)
        logger.info("release %d is in %s", release, self._into)
        return manifest

    def _refuse(self, release: int, message: str) -> None:
        before = self._refusals.get(release)
        if before is None or before.message != message:
            logger.error("release %d is refused: %s", release, message)
        self._refusals[release] = _Refusal(message, time.monotonic() + self._retry_seconds)

    def _remove(self, releases: Iterable[int]) -> None:
        for release in releases:
            remove_local(self._into, release, self._parts)
            self._verified.pop(release, None)
            logger.info("release %d is no longer in %s", release, self._into)

    def _verify(self, manifest: Manifest) -> bool:
        for part in self._parts:
            for problem in local_problems(self._into, manifest, part):
                logger.warning("local copy of release %d: %s", manifest.release, problem)
                return False
        self._remember(manifest)
        return True

    def _remember(self, manifest: Manifest) -> None:
        self._verified[manifest.release] = _Verified(manifest, self._stamp(manifest.release))

    def _is_verified(self, release: int) -> bool:
        known = self._verified.get(release)
        return known is not None and known.stamp == self._stamp(release)

    def _stamp(self, release: int) -> _Stamp:
        manifest = self._into / manifest_path(release)
        found = list(files_of(self._into, release, self._parts))
        with suppress(FileNotFoundError):
            found.append((manifest, manifest.stat()))
        return tuple(sorted((str(path), s.st_size, s.st_mtime_ns, s.st_ino) for path, s in found))
