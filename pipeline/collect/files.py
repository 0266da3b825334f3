"""Event logs in files: flat CSV or Parquet, and Parquet as Firebase exports it."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from pipeline._tables import WHOLE_NUMBER, Table, open_table, reading_with, whole_number
from pipeline.collect import sql
from pipeline.errors import EventsError
from pipeline.options import LATEST_SECOND

__all__ = [
    "VIEWS",
    "DailyFile",
    "FirebaseNames",
    "Read",
    "daily_files",
    "read_file",
    "update_views",
]

VIEWS: Final = "views"
_SHOWN_CHARACTERS: Final = 60
_DAILY: Final = re.compile(r".*?(\d{8})(?:\.[A-Za-z]+)+")
_FIREBASE_COLUMNS: Final = {"event_name", "event_timestamp", "event_params"}
_COLUMNS: Final = ("user_id", "item_id", "timestamp")


@dataclass(frozen=True)
class Read:
    """What was read from a log, and what became of it."""

    rows: int = 0
    bytes: int = 0
    unusable: int = 0
    added: int = 0

    @property
    def duplicates(self) -> int:
        """Events whose view was there already."""
        return self.rows - self.unusable - self.added

    def __add__(self, other: "Read") -> "Read":
        return Read(
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.unusable + other.unusable,
            self.added + other.added,
        )


@dataclass(frozen=True)
class DailyFile:
    """One day of the log."""

    day: date
    path: Path


@dataclass(frozen=True)
class FirebaseNames:
    """What the app calls the event and its parameters."""

    event: str = "view_article"
    article: str = "article_id"
    region: str = "region_id"


def daily_files(folder: Path) -> list[DailyFile]:
    """List the files of a folder whose names end in a day such as `events_20261124.parquet`.

    Raises EventsError where there is none, or a file is of no day.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        matched = _DAILY.fullmatch(path.name)
        try:
            day = datetime.strptime(matched[1] if matched else "", "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            raise EventsError(
                f"{path}: the name of a daily file must end in its day, as in events_20261124.csv"
            ) from None
        found.append(DailyFile(day.date(), path))
    if not found:
        raise EventsError(f"{folder}: there is no daily file such as events_20261124.csv in it")
    return found


def update_views(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    look_back_days: int,
    names: FirebaseNames,
    today: date,
) -> Read:
    """Bring the table of views up to date, in one transaction.

    Reads the files of the newest day up to `today` that views came with, of `look_back_days` before
    it, and of all days after it: views of a day go on arriving for a while. A file that changes
    later than that is not looked at again.
    """
    for statement in (sql.CREATE_VIEWS, sql.ADD_LOG_DAY):
        connection.execute(sql.for_duckdb(statement.format(views=VIEWS)))
    newest = connection.execute(sql.for_duckdb(sql.watermark(VIEWS, today))).fetchone()
    files = daily_files(folder)
    if newest and newest[0]:
        earliest = newest[0] - timedelta(days=look_back_days)
        files = [file for file in files if file.day >= earliest]
    connection.begin()
    try:
        read = Read()
        for file in files:
            with reading_with(file.path, EventsError):
                read += read_file(connection, file.path, names, file.day)
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    return read


def read_file(
    connection: duckdb.DuckDBPyConnection, path: Path, names: FirebaseNames, day: date | None = None
) -> Read:
    """Add the views of one file, a daily one's of its `day`, to the table of views, which is there.

    Raises EventsError with the line of the first wrong value. Passed over and counted are views of
    clocks that are ahead of `day`, and what is no view of an article in a log of Firebase's, which
    holds many kinds of events.
    """
    table = open_table(path, EventsError, ())
    log_day = sql.day_of_a_file(day)
    if set(table.columns) >= _FIREBASE_COLUMNS:
        if not table.is_parquet:
            raise EventsError(f"{path}: nested events can only be read from Parquet")
        quoted = str(path).replace("'", "''")
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW log AS SELECT * FROM read_parquet('{quoted}')"  # noqa: S608 - quoted
        )
        fresh = sql.extract_firebase("log", names.event, names.article, names.region, log_day)
    else:
        table = open_table(path, EventsError, _COLUMNS)
        _parse(connection, table)
        _refuse_bad_values(connection, table)
        columns = "user_id, article_id, region AS region_id, viewed_at, place"
        fresh = f"SELECT {columns}, {log_day} AS log_day FROM parsed"  # noqa: S608 - fixed names and a date
    return _merge(connection, fresh, path.stat().st_size)


def _merge(connection: duckdb.DuckDBPyConnection, fresh: str, size: int) -> Read:
    rows, bad, earliest = _one_row(connection, sql.for_duckdb(sql.counts(fresh)))
    if not rows:
        return Read(bytes=size)
    since = datetime.fromtimestamp(earliest or 0, UTC).date()
    (added,) = _one_row(connection, sql.for_duckdb(sql.merge(VIEWS, fresh, since)))
    return Read(rows, size, bad, added)


def _one_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    return connection.execute(query).fetchone() or ()


def _parse(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    region = "region_id" if "region_id" in table.columns else "NULL"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE parsed AS
        SELECT *, {whole_number("item_id")} AS article_id,
            coalesce(
                CASE WHEN regexp_full_match(trim(timestamp), '\\d{{1,18}}(\\.\\d*)?')
                    THEN CAST(split_part(trim(timestamp), '.', 1) AS BIGINT) END,
                CAST(floor(epoch(TRY_CAST(timestamp AS TIMESTAMPTZ))) AS BIGINT)
            ) AS viewed_at,
            CASE WHEN coalesce(trim(region_id), '') IN ('', '-1') THEN -1
                ELSE {whole_number("region_id")} END AS region
        FROM (
            SELECT nullif(user_id, '') AS user_id, item_id, timestamp,
                CAST({region} AS VARCHAR) AS region_id, row_number() OVER () AS place
            FROM {table.relation()}
        )
    """)  # noqa: S608 - fixed names and a quoted path


def _refuse_bad_values(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    bad = connection.execute(
        """
        SELECT user_id, item_id, timestamp, region_id, article_id, viewed_at, region FROM parsed
        WHERE user_id IS NULL OR strlen(user_id) > ? OR article_id IS NULL OR region IS NULL
            OR viewed_at IS NULL OR viewed_at NOT BETWEEN 0 AND ?
        ORDER BY place LIMIT 1
        """,
        [sql.MOST_USER_ID_BYTES, LATEST_SECOND],
    ).fetchone()
    if bad is None:
        return
    user_id, item_id, timestamp, region_id, article, _, region = bad
    if user_id is None or len(user_id.encode()) > sql.MOST_USER_ID_BYTES:
        wanted = f"a text of 1 to {sql.MOST_USER_ID_BYTES} bytes in UTF-8"
        column, value = "user_id", user_id
    elif article is None:
        column, value, wanted = "item_id", item_id, WHOLE_NUMBER
    elif region is None:
        column, value, wanted = "region_id", region_id, f"{WHOLE_NUMBER}, empty or -1 if unknown"
    else:
        column, value, wanted = "timestamp", timestamp, "unix seconds or ISO 8601"
    place = table.place_of(column, value)
    raise EventsError(f"{place}: {column} is {_shown(value or '')}, it must be {wanted}")


def _shown(value: str) -> str:
    shown = value[:_SHOWN_CHARACTERS]
    return repr(value) if shown == value else f"{shown!r}..."
