"""Collecting where the log is: BigQuery reads, merges and groups, Cloud Storage carries shards."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from fsspec.core import url_to_fs
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from pipeline.collect import sql
from pipeline.collect.files import FirebaseNames, Read
from pipeline.collect.outcome import Outcome
from pipeline.errors import SourceError
from pipeline.options import BigQueryOptions, CollectOptions
from pipeline.window import Window

__all__ = ["collect_from_bigquery"]

_EMULATOR: Final = "BIGQUERY_EMULATOR_HOST"  # the client's own name for it


def collect_from_bigquery(
    options: CollectOptions,
    place: BigQueryOptions,
    names: FirebaseNames,
    window: Window,
    directory: Path,
) -> Outcome:
    """Merge new days of the log into the table of views, and fetch the histories of the window.

    Repeating it changes nothing: a merge adds what is missing, and nothing of an export is left
    where it was exported to. Raises SourceError with what BigQuery or Cloud Storage answered.
    """
    with _told(place), _client(place) as client:
        log = _Log(client, options, place, names)
        for statement in (sql.CREATE_VIEWS, sql.ADD_LOG_DAY):
            log.run(statement.format(views=log.views))
        read = log.update_views(window)
        since, until, most = window.since or 0, window.until, options.max_user_views
        (row,) = log.run(sql.summary(log.views, since, until, most))
        outcome = Outcome.of(read, row)
        half_life = outcome.half_life(options)
        queries = {
            "histories": sql.histories(log.views, since, until, most),
            "article_views": sql.article_views(log.views, since, until, outcome.last_at, half_life),
        }
        for name, query in queries.items():
            url = f"{place.export_url.rstrip('/')}/{window.release}/{name}"
            with _emptied(url):
                log.run(_export(url, query))
                _fetch(url, directory / name)
        return replace(outcome, read=replace(read, bytes=log.bytes_processed))


class _Log:
    """Runs queries, each within the limit of bytes, and adds up what they read."""

    def __init__(
        self,
        client: Any,
        options: CollectOptions,
        place: BigQueryOptions,
        names: FirebaseNames,
    ) -> None:
        self._client, self._options, self._place, self._names = client, options, place, names
        self.views = _quoted(place.project, place.views)
        self.bytes_processed = 0

    def update_views(self, window: Window) -> Read:
        """Read the days since the watermark, its look-back included, and merge them."""
        today = datetime.fromtimestamp(window.until, UTC).date()
        (row,) = self.run(sql.watermark(self.views, today))
        extraction = sql.extract_firebase(
            _quoted(self._place.project, self._place.source),
            self._names.event,
            self._names.article,
            self._names.region,
            sql.TABLE_DAY,
        )
        fresh = extraction + self._days(row[0], window, today)
        ((rows, bad, earliest),) = self.run(sql.counts(fresh))
        if not rows:
            return Read()
        since = datetime.fromtimestamp(earliest or 0, UTC).date()
        job = self._job(sql.merge(self.views, fresh, since))
        return Read(rows, 0, bad, int(job.num_dml_affected_rows or 0))

    def run(self, text: str) -> Iterable[tuple[Any, ...]]:
        """Run a query to its end and answer its rows."""
        return [tuple(row.values()) for row in self._job(text).result()]

    def _job(self, text: str) -> Any:
        limit = self._place.max_bytes_billed
        config = bigquery.QueryJobConfig(use_legacy_sql=False, use_query_cache=False)
        if limit is not None:
            config.maximum_bytes_billed = limit
        job = self._client.query(text, job_config=config, location=self._place.location)
        job.result()
        self.bytes_processed += int(job.total_bytes_processed or 0)
        return job

    def _days(self, newest: date | None, window: Window, today: date) -> str:
        """Name the daily tables to read; all others cost nothing."""
        if newest is not None:
            first = newest - timedelta(days=self._options.look_back_days)
        elif window.since is not None:
            first = datetime.fromtimestamp(window.since, UTC).date()
        else:
            first = date.min.replace(year=1970)
        return f"    AND _TABLE_SUFFIX BETWEEN '{first:%Y%m%d}' AND '{today:%Y%m%d}'\n"


def _export(url: str, query: str) -> str:
    return (
        f"EXPORT DATA OPTIONS(uri='{url}/part-*.parquet', format='PARQUET', overwrite=true) "
        f"AS {query}"
    )


@contextmanager
def _emptied(url: str) -> Iterator[None]:
    """Leave nothing below a URL: shards of an export before this one, or of users for ever."""
    _remove(url)
    try:
        yield
    finally:
        _remove(url)


def _remove(url: str) -> None:
    with _shards(url) as (files, shards):
        if shards:
            files.rm(shards)


def _fetch(url: str, target: Path) -> None:
    """Bring the shards of an export into a folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with _shards(url) as (files, shards):
        for shard in shards:
            files.get_file(shard, str(target / shard.rpartition("/")[2]))


@contextmanager
def _shards(url: str) -> Iterator[tuple[Any, list[str]]]:
    """Hand out the file system of a URL and what is below it; what fails becomes a SourceError."""
    try:
        files, root = url_to_fs(url, use_listings_cache=False)
        yield files, sorted(files.find(root))
    except Exception as cause:  # the client of Cloud Storage has no base for its errors
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise SourceError(f"{url}: {reason}") from cause


def _quoted(project: str, table: str) -> str:
    """Name a table in full: `dataset.table` is one of the project's own."""
    full = table if table.count(".") > 1 else f"{project}.{table}"
    return f"`{full}`"


@contextmanager
def _client(place: BigQueryOptions) -> Iterator[Any]:
    credentials = AnonymousCredentials() if os.environ.get(_EMULATOR) else None
    make: Callable[..., Any] = bigquery.Client
    client = make(project=place.project, location=place.location, credentials=credentials)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _told(place: BigQueryOptions) -> Iterator[None]:
    try:
        yield
    except (GoogleAPICallError, RetryError) as cause:
        # The client's own text has the address of the request and the job's number around it.
        answered = [each["message"] for each in getattr(cause, "errors", ()) if "message" in each]
        message = " ".join((answered[0] if answered else str(cause)).split())
        hint = ""
        if "bytesBilledLimitExceeded" in str(cause) or "bytes billed" in message.lower():
            hint = " (raise max_bytes_billed in the --bigquery file, or give fewer --window-days)"
        raise SourceError(f"BigQuery, project {place.project}: {message}{hint}") from cause
    except GoogleAuthError as cause:
        raise SourceError(
            f"BigQuery, project {place.project}: no credentials: {' '.join(str(cause).split())}"
        ) from cause
