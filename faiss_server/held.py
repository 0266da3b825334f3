"""Which releases are in memory. Changes are seen whole, from any thread."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from faiss_server.departing import Departing
from faiss_server.loaded import LoadedRelease
from faiss_server.metrics import FaissServerMetrics
from releases.manifest import Manifest

__all__ = ["Held", "HeldReleases"]

logger = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment; a change makes a new one."""

    ready: Mapping[int, LoadedRelease] = field(default_factory=lambda: MappingProxyType({}))
    loading: Mapping[int, Manifest] = field(default_factory=lambda: MappingProxyType({}))


class HeldReleases:
    """The releases in service, those expected, and those whose last searches are under way.

    `on_change` is called after each change of the first two, in the thread that made it.
    """

    def __init__(
        self,
        metrics: FaissServerMetrics,
        on_change: Callable[[], object],
        notice_seconds: float = 0.0,
    ) -> None:
        self._notice_seconds = notice_seconds
        self._metrics = metrics
        self._on_change = on_change
        self._lock = threading.Lock()
        self._held = Held()
        self._withdrawn: frozenset[int] = frozenset()
        self._departing: list[Departing] = []

    @property
    def now(self) -> Held:
        """Answer what is held now."""
        return self._held

    def expect(self, loading: Mapping[int, Manifest]) -> None:
        """Take these, and no others, for those that are on their way."""
        with self._lock:
            self._change(self._held.ready, loading)

    def begin(self, manifest: Manifest) -> None:
        """Count a release among those on their way."""
        with self._lock:
            self._change(self._held.ready, {**self._held.loading, manifest.release: manifest})

    def give_up(self, release: int) -> None:
        """Count a release no longer among those on their way."""
        with self._lock:
            self._change(self._held.ready, _without(self._held.loading, [release]))

    def add(self, loaded: LoadedRelease) -> None:
        """Take a release into service, unless it was withdrawn while it was loaded."""
        release = loaded.manifest.release
        with self._lock:
            ready = self._held.ready
            if release not in self._withdrawn:
                ready = {**ready, release: loaded}
                logger.info("release %d is ready", release)
            self._change(ready, _without(self._held.loading, [release]))

    def drop(self, releases: Collection[int]) -> None:
        """Take releases out of service; `wait_until_gone` frees their memory."""
        with self._lock:
            self._drop(releases)

    def withdraw(self, withdrawn: frozenset[int]) -> None:
        """Drop what is withdrawn, now and when it comes later.

        Callers answer from it until they hear of it, so they are given notice.
        """
        with self._lock:
            self._withdrawn = withdrawn
            self._drop(self._held.ready.keys() & withdrawn, self._notice_seconds)

    def on_notice(self, release: int) -> LoadedRelease | None:
        """Answer a withdrawn release whose notice is not over."""
        for departing in tuple(self._departing):
            loaded = departing.on_notice
            if loaded is not None and loaded.manifest.release == release:
                return loaded
        return None

    def all_on_notice(self) -> list[LoadedRelease]:
        """Answer the withdrawn releases that are still searched."""
        leaving = (departing.on_notice for departing in tuple(self._departing))
        return [loaded for loaded in leaving if loaded is not None]

    def is_withdrawn(self, release: int) -> bool:
        """Whether the release is among those withdrawn last."""
        return release in self._withdrawn

    def wait_until_gone(self) -> None:
        """Wait for the last searches of dropped releases and free the memory, in this thread."""
        for dropped in tuple(self._departing):
            dropped.wait()
            with self._lock:
                self._departing.remove(dropped)

    def _drop(self, releases: Collection[int], notice_seconds: float = 0.0) -> None:
        for release in self._held.ready.keys() & set(releases):  # one may be withdrawn meanwhile
            self._departing.append(Departing(self._held.ready[release], notice_seconds))
            logger.info("release %d is dropped", release)
        self._change(_without(self._held.ready, releases), self._held.loading)

    def _change(self, ready: Mapping[int, LoadedRelease], loading: Mapping[int, Manifest]) -> None:
        before = self._held
        if (ready.keys(), loading.keys()) == (before.ready.keys(), before.loading.keys()):
            return
        self._held = Held(MappingProxyType(dict(ready)), MappingProxyType(dict(loading)))
        self._metrics.newest.set(max(ready, default=0))
        self._metrics.ready.set(len(ready))
        self._metrics.loading.set(len(loading))
        self._on_change()


def _without(values: Mapping[int, ValueT], releases: Collection[int]) -> dict[int, ValueT]:
    return {release: value for release, value in values.items() if release not in releases}
