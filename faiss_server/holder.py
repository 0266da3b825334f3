"""Which releases are in memory: following the store, at most two at a time."""

import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from releases.checksums import OnBytes, ignore_bytes
from releases.errors import ReleaseError
from releases.manifest import Manifest
from releases.split import Split
from releases.store import Listing, ReleaseStore
from releases.sync import Mirror
from service_runtime.errors import BackendUnavailableError, ReleaseNotHeldError

__all__ = ["RESIDENT_RELEASES", "Held", "ReleaseHolder"]

logger = logging.getLogger(__name__)

RESIDENT_RELEASES: Final = 2

_LAST_SEARCH_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment; a change makes a new one."""

    ready: Mapping[int, LoadedRelease] = field(default_factory=lambda: MappingProxyType({}))
    loading: Mapping[int, Manifest] = field(default_factory=lambda: MappingProxyType({}))


class ReleaseHolder:
    """Loads the newest releases of a store, drops old and withdrawn ones.

    One thread calls `refresh`; any thread may ask for what is held at any time and goes on with
    what it got: a dropped release lives until its last search is done. `on_change` is called, in
    the refreshing thread, after each change.
    """

    def __init__(
        self,
        store: ReleaseStore,
        mirror: Mirror,
        root: Path,
        metrics: FaissServerMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._root = root
        self._metrics = metrics
        self._on_change = on_change
        self._held = Held()
        self._refused: set[int] = set()
        self._mirror_refused: set[int] = set()
        self._settled: Listing | None = None
        self._split: Split | None = None

    @property
    def split(self) -> Split | None:
        """Answer how the users are divided between releases, as of the last look."""
        return self._split

    @property
    def held(self) -> Held:
        """Answer what is held now."""
        return self._held

    def get(self, release: int) -> LoadedRelease:
        """Answer a release that is ready.

        Raises BackendUnavailableError while it is loading, ReleaseNotHeldError for any other.
        """
        held = self._held
        if release in held.ready:
            return held.ready[release]
        if release in held.loading:
            raise BackendUnavailableError(f"release {release} is still loading")
        ready = ", ".join(str(number) for number in sorted(held.ready, reverse=True)) or "none"
        raise ReleaseNotHeldError(f"release {release} is not held; ready: {ready}")

    def refresh(self, on_bytes: OnBytes = ignore_bytes) -> None:
        """Look at the store once and take what is new.

        Raises StoreError or ReleaseError when that fails; what was held stays, and a server that
        holds nothing takes what is left on local disk.
        """
        try:
            self._follow(on_bytes)
            self._split = self._store.split()
        except ReleaseError:
            if not self._held.ready:
                self._take(self._mirror.local())
            raise
        finally:
            self._change(loading={})

    def _follow(self, on_bytes: OnBytes) -> None:
        listing = self._store.listing()
        if listing == self._settled:
            return
        self._drop(self._held.ready.keys() & listing.withdrawn)
        self._refused &= set(listing.usable)
        self._change(loading=self._expected(listing))
        held_locally = self._mirror.sync(on_bytes)
        self._count_mirror_refusals()
        self._take(held_locally)
        # The mirror tries refused ones again in its own time.
        self._settled = None if self._mirror.refused else listing

    def _expected(self, listing: Listing) -> dict[int, Manifest]:
        """Manifests of the releases that are about to be fetched; unreadable ones are not."""
        expected = {}
        passed_over = self._refused | self._mirror.refused.keys()
        usable = [release for release in listing.usable if release not in passed_over]
        for release in usable[:RESIDENT_RELEASES]:
            if release not in self._held.ready:
                try:
                    expected[release] = self._store.manifest(release)
                except ReleaseError as error:
                    logger.debug("left to the mirror: %s", error)
        return expected

    def _count_mirror_refusals(self) -> None:
        refused = set(self._mirror.refused)
        self._metrics.refused[RefusalReason.MIRROR].inc(len(refused - self._mirror_refused))
        self._mirror_refused = refused

    def _take(self, manifests: Iterable[Manifest]) -> None:
        wanted = {
            manifest.release: manifest
            for manifest in manifests
            if manifest.release not in self._held.ready and manifest.release not in self._refused
        }
        self._change(loading=wanted)
        for manifest in wanted.values():
            if self._make_room(manifest.release):
                self._load(manifest)

    def _make_room(self, release: int) -> bool:
        """Drop the oldest release if this one is newer; whether there is room then."""
        ready = self._held.ready
        if len(ready) < RESIDENT_RELEASES:
            return True
        oldest = min(ready)
        if release < oldest:
            return False
        del ready
        self._drop([oldest])
        return True

    def _load(self, manifest: Manifest) -> None:
        release = manifest.release
        try:
            loaded = load_release(manifest, self._root)
        except ReleaseRefusedError as error:
            logger.error("release %d is refused: %s", release, error)  # noqa: TRY400 - one line
            self._refuse(release, error.reason)
        except Exception:
            # Whatever it is, loading gigabytes again every second would not mend it.
            logger.exception("release %d is refused: loading it failed", release)
            self._refuse(release, RefusalReason.UNEXPECTED)
        else:
            self._change(ready={**self._held.ready, release: loaded}, done=release)
            logger.info("release %d is ready", release)

    def _refuse(self, release: int, reason: RefusalReason) -> None:
        self._refused.add(release)
        self._metrics.refused[reason].inc()
        self._change(done=release)

    def _drop(self, releases: Collection[int]) -> None:
        """Take releases out of service and wait until the searches under way let go of them."""
        gone = [threading.Event() for _ in releases]
        # The callbacks come with the last references, so the references are not to be kept here.
        watched = [
            weakref.ref(self._held.ready[release], lambda _, event=event: event.set())  # type: ignore[misc]
            for release, event in zip(releases, gone, strict=True)
        ]
        for release in releases:
            logger.info("release %d is dropped", release)
        self._change(
            ready={
                release: loaded
                for release, loaded in self._held.ready.items()
                if release not in releases
            }
        )
        for reference, event in zip(watched, gone, strict=True):
            if not event.wait(_LAST_SEARCH_SECONDS):
                logger.warning("a dropped release is still in memory: %s", reference())

    def _change(
        self,
        *,
        ready: Mapping[int, LoadedRelease] | None = None,
        loading: Mapping[int, Manifest] | None = None,
        done: int | None = None,
    ) -> None:
        before = self._held
        ready = before.ready if ready is None else ready
        loading = before.loading if loading is None else loading
        loading = {release: loading[release] for release in loading if release != done}
        if (ready.keys(), loading.keys()) == (before.ready.keys(), before.loading.keys()):
            return
        self._held = Held(MappingProxyType(dict(ready)), MappingProxyType(loading))
        self._metrics.newest.set(max(ready, default=0))
        self._metrics.ready.set(len(ready))
        self._metrics.loading.set(len(loading))
        self._on_change()
