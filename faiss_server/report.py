"""Telling the store what is in service, so that no publisher pushes it out."""

import time
from typing import Final

from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from releases.checksums import OnBytes
from releases.errors import StoreError
from releases.serving import REPORT_SECONDS, ServingReport, remove_report, write_report
from releases.store import ReleaseStore

__all__ = ["ServingReporter"]

_WITHOUT: Final = "FAISS_SERVER_REPORT_SERVING=false does without"


class ServingReporter:
    """Writes this server's report when it changed, and every ten seconds."""

    def __init__(
        self, store: ReleaseStore, server: str, holder: ReleaseHolder, in_use: ReleasesInUse
    ) -> None:
        self._store = store
        self._server = server
        self._holder = holder
        self._in_use = in_use
        self._last: ServingReport | None = None

    def report(self, _on_bytes: OnBytes) -> None:
        """Write a report if one is due; raises StoreError."""
        report = self._now()
        if self._last is not None and not _is_due(report, self._last):
            return
        try:
            write_report(self._store, report)
        except StoreError as error:
            raise StoreError(f"what is in service cannot be told ({_WITHOUT}): {error}") from error
        self._last = report

    def take_back(self) -> None:
        """Remove the report of a server that ends; raises StoreError."""
        remove_report(self._store, self._server)

    def _now(self) -> ServingReport:
        held = frozenset(self._holder.held.ready)
        return ServingReport(
            server=self._server,
            reported_at_ms=time.time_ns() // 10**6,
            held=held,
            in_use=self._in_use.in_use() & held,
            refused=self._holder.refused | (self._in_use.refused() & held),
        )


def _is_due(report: ServingReport, last: ServingReport) -> bool:
    since = report.reported_at_ms - last.reported_at_ms
    same = report.model_copy(update={"reported_at_ms": last.reported_at_ms}) == last
    return not same or since >= REPORT_SECONDS * 1000
