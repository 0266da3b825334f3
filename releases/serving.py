"""What is in service, as servers and side-cars report it into the store.

The store is the only place that publishers, side-cars and servers all reach: a workflow may run in
another cloud than the servers.
"""

import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from releases.errors import StoreError
from releases.layout import SERVING
from releases.store import ReleaseStore

__all__ = [
    "REPORT_SECONDS",
    "Reporter",
    "ServingReport",
    "current_reports",
    "releases_in_use",
    "remove_old_reports",
    "remove_report",
    "write_report",
]

logger = logging.getLogger(__name__)

REPORT_SECONDS: Final = 10.0
"""A server reports at least this often, and at each change."""

_CURRENT_MS: Final = 30_000
_OLD_MS: Final = 24 * 3600 * 1000


class ServingReport(BaseModel):
    """One server's word, as of `reported_at_ms` (Unix time in ms)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
    reported_at_ms: Annotated[int, Field(ge=0)]
    held: frozenset[int]
    """Releases that it can be asked for."""
    in_use: frozenset[int]
    """Releases that its callers answer from."""
    refused: frozenset[int]
    """Releases that it, or its callers, will not use."""


class Reporter:
    """Keeps one server's report current: written at each change, and every ten seconds."""

    def __init__(self, store: ReleaseStore, server: str) -> None:
        self._store = store
        self._server = re.sub(r"[^A-Za-z0-9._-]", "_", server)[:200]
        self._said: tuple[frozenset[int], ...] = ()
        self._due_at = 0.0

    def tell(
        self, held: Collection[int], in_use: Collection[int], refused: Collection[int]
    ) -> None:
        """Write a report if one is due; raises StoreError."""
        said = (frozenset(held), frozenset(in_use), frozenset(refused))
        now = time.monotonic()  # the wall clock may be put back
        if said == self._said and now < self._due_at:
            return
        report = ServingReport(
            server=self._server,
            reported_at_ms=time.time_ns() // 10**6,
            held=said[0],
            in_use=said[1],
            refused=said[2],
        )
        try:
            write_report(self._store, report)
        except StoreError as error:
            raise StoreError(f"what is in service cannot be told: {error}") from error
        self._said, self._due_at = said, now + REPORT_SECONDS

    def take_back(self) -> None:
        """Remove the report: the server ends. Without the store it grows old by itself."""
        try:
            remove_report(self._store, self._server)
        except StoreError as error:
            logger.warning("the report of what is in service stays for half a minute: %s", error)


def write_report(store: ReleaseStore, report: ServingReport) -> None:
    """Put a report in place of the same server's last one."""
    store.put(_path(report.server), report.model_dump_json().encode())


def remove_report(store: ReleaseStore, server: str) -> None:
    """Take back what a server reported: it is about to end."""
    store.remove_file(_path(server))


def current_reports(store: ReleaseStore) -> list[ServingReport]:
    """Read the reports of servers that were alive half a minute ago.

    How old one is from further in the future, written before a clock was put back, is not known.
    """
    now = time.time_ns() // 10**6
    return [
        report for _, report in _reports(store) if abs(now - report.reported_at_ms) <= _CURRENT_MS
    ]


def releases_in_use(reports: Iterable[ServingReport]) -> frozenset[int]:
    """Name all releases that somebody answers from."""
    return frozenset().union(*(report.in_use for report in reports))


def remove_old_reports(store: ReleaseStore) -> None:
    """Remove what servers reported that are gone for a day."""
    oldest = time.time_ns() // 10**6 - _OLD_MS
    for path, report in _reports(store):
        if report.reported_at_ms < oldest:
            store.remove_file(path)


def _reports(store: ReleaseStore) -> Iterator[tuple[str, ServingReport]]:
    for path in store.files_in(SERVING):
        try:
            text = b"".join(store.chunks(path))
            yield path, ServingReport.model_validate_json(text)
        except (FileNotFoundError, ValidationError):
            continue  # gone since it was listed, or no report of this schema: says nothing to us


def _path(server: str) -> str:
    return f"{SERVING}/{server}.json"
