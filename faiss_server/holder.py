"""Which releases should be in memory: following the store, at most two at a time."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.held import Held, HeldReleases
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from releases.checksums import OnBytes, ignore_bytes
from releases.choice import releases_to_hold
from releases.errors import ReleaseError
from releases.manifest import Manifest
from releases.split import Split
from releases.store import Listing, ReleaseStore
from releases.sync import Mirror
from service_runtime.errors import BackendUnavailableError, ReleaseNotHeldError

__all__ = ["RESIDENT_RELEASES", "ReleaseHolder"]

logger = logging.getLogger(__name__)

RESIDENT_RELEASES: Final = 2

_MAY_PASS: Final = frozenset({RefusalReason.FILES, RefusalReason.UNEXPECTED})
"""What may be the machine's fault, such as too little memory, or too many files open."""


def _nothing() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


class ReleaseHolder:
    """Loads the newest releases of a store, drops old and withdrawn ones.

    One thread calls `refresh`, another may call `look_while_busy`; any thread may ask for what is
    held at any time and goes on with what it got: a dropped release lives until its last search is
    done. `on_change` is called, in one of the first two threads, after each change. No release that
    `in_use` names makes room for another; a new one then waits. A withdrawn one leaves the status
    at once, and is still searched for `notice_seconds`: callers find out when they ask next. None
    answers an article that `taken_down` names, int64[n]. A release that is refused for its contents
    stays refused; after any other failure it is tried again `retry_seconds` later.
    """

    def __init__(  # noqa: PLR0913 - each has a user
        self,
        store: ReleaseStore,
        mirror: Mirror,
        root: Path,
        metrics: FaissServerMetrics,
        on_change: Callable[[], object],
        in_use: Callable[[], Collection[int]] = frozenset,
        *,
        notice_seconds: float = 0.0,
        taken_down: Callable[[], NDArray[np.int64]] = _nothing,
        retry_seconds: float = 600.0,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._root = root
        self._metrics = metrics
        self._in_use = in_use
        self._taken_down = taken_down
        self._releases = HeldReleases(metrics, on_change, notice_seconds)
        self._retry_seconds = retry_seconds
        self._refused: dict[int, float] = {}  # until when, by the monotonic clock
        self._mirror_refused: set[int] = set()
        self._waiting: int | None = None
        self._settled: Listing | None = None
        self._split: Split | None = None
        self._busy = threading.Event()
        self._leaving_out = threading.Lock()

    @property
    def split(self) -> Split | None:
        """Answer how the users are divided between releases, as of the last look."""
        return self._split

    @property
    def refused(self) -> frozenset[int]:
        """Answer the releases that the store offers and this server will not hold."""
        return frozenset({*self._refused, *self._mirror.refused})

    @property
    def held(self) -> Held:
        """Answer what is held now."""
        return self._releases.now

    def leave_out_what_is_taken_down(self) -> None:
        """Have no release answer what `taken_down` names now; from any thread."""
        with self._leaving_out:
            article_ids = self._taken_down()
            for loaded in (*self.held.ready.values(), *self._releases.all_on_notice()):
                loaded.searcher.leave_out(article_ids)

    def get(self, release: int) -> LoadedRelease:
        """Answer a release that is ready, or withdrawn so lately that callers cannot know.

        Raises BackendUnavailableError while it is loading, ReleaseNotHeldError for any other.
        """
        held = self.held
        if release in held.ready:
            return held.ready[release]
        if release in held.loading:
            raise BackendUnavailableError(f"release {release} is still loading")
        leaving = self._releases.on_notice(release)
        if leaving is not None:
            return leaving
        ready = ", ".join(str(number) for number in sorted(held.ready, reverse=True)) or "none"
        raise ReleaseNotHeldError(f"release {release} is not held; ready: {ready}")

    def refresh(self, on_bytes: OnBytes = ignore_bytes) -> None:
        """Look at the store once and take what is new.

        Raises StoreError or ReleaseError when that fails; what was held stays. A server that holds
        nothing takes what is on local disk where the store does not answer, or has no usable
        release.
        """
        self._forget_what_may_have_passed()
        try:
            self._follow(on_bytes)
            self._split = self._store.split()
        except ReleaseError:
            if not self.held.ready:
                self._take(self._mirror.local())
            raise
        finally:
            self._busy.clear()
            self._releases.expect({})
            self._releases.wait_until_gone()

    def look_while_busy(self) -> None:
        """See withdrawals and splits, which cannot wait until `refresh` has fetched gigabytes.

        Raises StoreError or ReleaseError. Does nothing while `refresh` looks itself.
        """
        if self._busy.is_set():
            self._releases.withdraw(self._store.listing().withdrawn)
            self._split = self._store.split()

    def _forget_what_may_have_passed(self) -> None:
        now = time.monotonic()
        refused = {release: until for release, until in self._refused.items() if now < until}
        if len(refused) < len(self._refused):
            self._refused, self._settled = refused, None

    def _follow(self, on_bytes: OnBytes) -> None:
        listing = self._store.listing()
        self._releases.withdraw(listing.withdrawn)
        if listing == self._settled:
            return
        self._busy.set()
        if listing.usable:  # else it may be the wrong store
            self._refused = {r: until for r, until in self._refused.items() if r in listing.usable}
        self._releases.expect(self._expected(listing))
        self._take_newest(on_bytes)
        if not listing.usable and not self.held.ready:
            # A store that is not mounted looks so too. What is withdrawn the mirror has removed.
            self._take(self._mirror.local())
        newest = next((r for r in listing.usable if r not in self.refused), None)
        self._note_waiting(None if newest in self.held.ready else newest)
        # The mirror tries refused ones again in its own time; one that waits needs another look.
        unsettled = self._mirror.refused or self._waiting is not None
        self._settled = None if unsettled else listing

    def _expected(self, listing: Listing) -> dict[int, Manifest]:
        """Manifests of the releases that are about to be fetched; unreadable ones are not."""
        expected = {}
        passed_over = self.refused
        usable = [release for release in listing.usable if release not in passed_over]
        ready = self.held.ready.keys()
        for release in releases_to_hold(usable, ready, self._in_use(), RESIDENT_RELEASES):
            if release not in ready:
                try:
                    expected[release] = self._store.manifest(release)
                except ReleaseError as error:
                    logger.debug("left to the mirror: %s", error)
        return expected

    def _take_newest(self, on_bytes: OnBytes) -> None:
        """Fetch and load the newest releases; in the place of a refused one comes an older one."""
        refused = None
        while refused != self._refused.keys():
            refused = set(self._refused)
            fetched = self._mirror.fetch(on_bytes, without=refused)
            self._count_mirror_refusals()
            self._take(fetched)
        # Not before: a release that turns out bad gives its place back to the one it took it from.
        if fetched:
            local = {manifest.release for manifest in fetched}
            self._mirror.remove_all_but(local | self.held.ready.keys())

    def _count_mirror_refusals(self) -> None:
        refused = set(self._mirror.refused)
        self._metrics.refused[RefusalReason.MIRROR].inc(len(refused - self._mirror_refused))
        self._mirror_refused = refused

    def _take(self, manifests: Iterable[Manifest]) -> None:
        wanted = {
            manifest.release: manifest
            for manifest in manifests
            if manifest.release not in self.held.ready and manifest.release not in self._refused
        }
        self._releases.expect(wanted)
        for manifest in wanted.values():
            self._bring_in(manifest)

    def _bring_in(self, manifest: Manifest) -> None:
        """Load a release, if need be in the place of an older one that nobody answers from, which
        comes back if that fails. Where there is none it has to wait, or is already behind.
        """
        self._releases.wait_until_gone()
        ready = self.held.ready
        if len(ready) < RESIDENT_RELEASES:
            self._load(manifest)
            return
        if manifest.release < max(ready):
            return
        in_use = self._in_use()
        free = [release for release in ready if release not in in_use]
        if not free:
            return
        leaving = ready[min(free)].manifest
        del ready  # it would keep in memory what leaves
        self._releases.drop([leaving.release])
        self._releases.wait_until_gone()
        if not self._load(manifest) and not self._releases.is_withdrawn(leaving.release):
            self._load(leaving)

    def _note_waiting(self, release: int | None) -> None:
        if release is not None and release != self._waiting:
            held = ", ".join(map(str, sorted(self.held.ready))) or "none"
            logger.info("release %d is to come later; held: %s", release, held)
        self._waiting = release

    def _load(self, manifest: Manifest) -> bool:
        release = manifest.release
        self._releases.begin(manifest)
        try:
            loaded = load_release(manifest, self._root)
            with self._leaving_out:  # a change meanwhile would find it not yet among those held
                loaded.searcher.leave_out(self._taken_down())
                self._releases.add(loaded)
            del loaded  # it would keep in memory what leaves
        except ReleaseRefusedError as error:
            # Its text alone: whoever keeps a record would keep the index, which the traceback has.
            logger.error("release %d is refused: %s", release, str(error))  # noqa: TRY400
            self._refuse(release, error.reason)
        except Exception:
            # Whatever it is, loading gigabytes again every second would not mend it.
            logger.exception("release %d is refused: loading it failed", release)
            self._refuse(release, RefusalReason.UNEXPECTED)
        return release not in self._refused

    def _refuse(self, release: int, reason: RefusalReason) -> None:
        lasts = self._retry_seconds if reason in _MAY_PASS else math.inf
        self._refused = {**self._refused, release: time.monotonic() + lasts}
        self._metrics.refused[reason].inc()
        self._releases.give_up(release)
