"""Telling the store what is in service, so that no publisher pushes it out."""

from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from releases.checksums import OnBytes
from releases.serving import Reporter
from releases.store import ReleaseStore

__all__ = ["ServingReporter"]


class ServingReporter:
    """Reports for one server, from the moment at which it has a name."""

    def __init__(self, store: ReleaseStore, holder: ReleaseHolder, in_use: ReleasesInUse) -> None:
        self._store = store
        self._holder = holder
        self._in_use = in_use
        self._reporter: Reporter | None = None

    def begin(self, server: str) -> None:
        """Report under this name from now on."""
        self._reporter = Reporter(self._store, server)

    def report(self, _on_bytes: OnBytes) -> None:
        """Write a report if one is due; raises StoreError."""
        if self._reporter is not None:
            held = self._holder.held.ready.keys()
            refused = self._holder.refused | (held & self._in_use.refused())
            self._reporter.tell(held, held & self._in_use.in_use(), refused)

    def take_back(self) -> None:
        """Remove the report of a server that ends."""
        if self._reporter is not None:
            self._reporter.take_back()
