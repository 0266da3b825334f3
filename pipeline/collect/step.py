"""Collecting: bring the views up to date, then write the histories of a window of time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb

from pipeline._tables import reading_with
from pipeline.collect import sql
from pipeline.collect.collected import CollectedEvents
from pipeline.collect.files import VIEWS, FirebaseNames, Read, read_file, update_views
from pipeline.collect.outcome import Outcome
from pipeline.errors import EventsError, SourceError
from pipeline.items import collect_items
from pipeline.options import CollectOptions
from pipeline.window import Window

__all__ = ["collect"]

_SHARD_SIZE: Final = "64MB"


def collect(
    options: CollectOptions,
    window: Window,
    directory: Path,
    *,
    events: Path | None,
    items: str | None = None,
) -> CollectedEvents:
    """Collect from BigQuery, from a folder of daily files, or from one file.

    A file is `user_id,item_id,timestamp[,region_id]` as CSV or Parquet (gzip too), `timestamp` in
    unix seconds or ISO 8601; or Parquet as Firebase exports it. Of a folder only new days are
    read: the views so far are kept in `options.views`. Where there is nothing new, a line on stderr
    says so. Raises EventsError or ItemsError with the line of the first wrong value, and
    SourceError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = FirebaseNames(options.event_name, options.article_param, options.region_param)
    if options.bigquery is not None:
        # Loads Google's client.
        from pipeline.collect.bigquery import collect_from_bigquery  # noqa: PLC0415

        outcome = collect_from_bigquery(options, options.bigquery, names, window, directory)
        source = options.bigquery.source
    elif events is None:
        raise SourceError("there is nothing to collect from: give --events or --bigquery")
    else:
        outcome, source = _from_files(options, names, window, directory, events), str(events)
    if not outcome.views:
        raise EventsError(f"{source}: {_emptiness(outcome, window)}")
    if not outcome.read.added:
        newest = f"{datetime.fromtimestamp(outcome.last_at, UTC):%Y-%m-%d %H:%M} UTC"
        told = f"nothing new was read from {source}; the newest view is of {newest}"
        print(f"collect: {told}", file=sys.stderr)
    if items is not None:
        collect_items(items, directory)
    return outcome.collected(directory, has_items=items is not None)


def _emptiness(outcome: Outcome, window: Window) -> str:
    if outcome.future:
        return f"all {outcome.future} views claim to come after the start of this run"
    if window.since is not None:
        return "there are no views in the window: give more --window-days"
    if outcome.read.unusable:
        return f"none of its {outcome.read.rows} events is a view of an article"
    return "there are no events in it"


def _from_files(
    options: CollectOptions, names: FirebaseNames, window: Window, directory: Path, events: Path
) -> Outcome:
    if events.is_dir():
        kept = options.views or events.with_name(f"{events.name}.views.duckdb")
        with _connection(str(kept), directory) as connection:
            today = datetime.fromtimestamp(window.until, UTC).date()
            read = update_views(connection, events, options.look_back_days, names, today)
            return _write(connection, read, options, window, directory)
    with _connection(":memory:", directory) as connection:
        connection.execute(sql.for_duckdb(sql.CREATE_VIEWS.format(views=VIEWS)))
        with reading_with(events, EventsError):
            read = read_file(connection, events, names)
        connection.execute("DROP TABLE IF EXISTS parsed")
        return _write(connection, read, options, window, directory)


@contextmanager
def _connection(database: str, directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect; what does not fit into memory goes to the step's folder."""
    spill = directory / "spill"
    try:
        connection = duckdb.connect(database)
    except duckdb.Error as cause:
        first_line = str(cause).splitlines()[0]
        raise SourceError(f"{database}: the views cannot be opened: {first_line}") from None
    try:
        connection.execute("SET TimeZone='UTC'")
        connection.execute(f"SET temp_directory='{str(spill).replace(chr(39), chr(39) * 2)}'")
        yield connection
    finally:
        connection.close()
        _remove_empty(spill)


def _remove_empty(spill: Path) -> None:
    if spill.exists() and not any(spill.iterdir()):
        spill.rmdir()


def _write(
    connection: duckdb.DuckDBPyConnection,
    read: Read,
    options: CollectOptions,
    window: Window,
    directory: Path,
) -> Outcome:
    since, until, most = window.since or 0, window.until, options.max_user_views
    query = sql.for_duckdb(sql.summary(VIEWS, since, until, most))
    outcome = Outcome.of(read, connection.execute(query).fetchone() or ())
    half_life = outcome.half_life(options)
    for name, query in (
        ("histories", sql.histories(VIEWS, since, until, most)),
        ("article_views", sql.article_views(VIEWS, since, until, outcome.last_at, half_life)),
    ):
        target = str(directory / name).replace("'", "''")
        connection.execute(
            f"COPY ({sql.for_duckdb(query)}) TO '{target}' (FORMAT parquet, "
            f"FILE_SIZE_BYTES '{_SHARD_SIZE}', FILENAME_PATTERN 'part-{{i}}')"
        )
    return outcome
