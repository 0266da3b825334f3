"""The first step: any file of events becomes one clean columnar table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from pipeline._tables import Table, open_table, reading, whole_number
from pipeline.errors import EventsError
from pipeline.items import collect_items

__all__ = ["CollectedEvents", "collect"]

_LATEST_SECOND: Final = 253_402_300_799  # 9999-12-31; a time in milliseconds is beyond it
_MOST_USER_ID_BYTES: Final = 256  # the recommender takes no longer ones
_SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True)
class CollectedEvents:
    """The table of events and what was counted on the way.

    `events` is Parquet with `user_id` text, `article_id` int64, `region_id` int64 (-1: unknown)
    and `viewed_at` int64 (unix seconds), ordered by user, time and place in the source file.
    `items` is Parquet with `article_id` int64, `title` text and one int64 column for each
    attribute (-1: none), or None when no items were given.
    """

    events: Path
    items: Path | None
    event_count: int
    user_count: int
    article_count: int
    duplicates_dropped: int
    has_regions: bool
    first_event: int
    last_event: int


def collect(events: Path, items: Path | None, workdir: Path) -> CollectedEvents:
    """Read CSV or Parquet (gzip too) of `user_id,item_id,timestamp[,region_id]` into one table.

    `timestamp` is unix seconds or ISO 8601. Other columns are ignored. A user's second view of
    the same article at the same second is a duplicate and dropped. Raises EventsError or
    ItemsError with the line of the first wrong value.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    table = open_table(events, EventsError, ("user_id", "item_id", "timestamp"))
    target = workdir / "events.parquet"
    with reading(events, EventsError) as connection:
        _parse(connection, table)
        _refuse_bad_values(connection, table)
        rows = _write_sorted(connection, target)
        counts = _count(connection, target)
    if not rows:
        raise EventsError(f"{events}: the file has a header and no events")
    return CollectedEvents(
        events=target,
        items=None if items is None else collect_items(items, workdir),
        duplicates_dropped=rows - counts[0],
        event_count=counts[0],
        user_count=counts[1],
        article_count=counts[2],
        has_regions=bool(counts[3]),
        first_event=counts[4],
        last_event=counts[5],
    )


def _parse(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    region = "region_id" if "region_id" in table.columns else "NULL"
    connection.execute(f"""
        CREATE TEMP TABLE parsed AS
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
        [_MOST_USER_ID_BYTES, _LATEST_SECOND],
    ).fetchone()
    if bad is None:
        return
    user_id, item_id, timestamp, region_id, article, _, region = bad
    if user_id is None or len(user_id.encode()) > _MOST_USER_ID_BYTES:
        wanted = f"a text of 1 to {_MOST_USER_ID_BYTES} bytes in UTF-8"
        column, value = "user_id", user_id
    elif article is None:
        column, value, wanted = "item_id", item_id, "a whole number, 0 or more"
    elif region is None:
        column, value, wanted = "region_id", region_id, "a whole number, empty or -1 if unknown"
    else:
        column, value, wanted = "timestamp", timestamp, "unix seconds or ISO 8601"
    place = table.place_of(column, value)
    raise EventsError(f"{place}: {column} is {_shown(value or '')}, it must be {wanted}")


def _shown(value: str) -> str:
    shown = value[:_SHOWN_CHARACTERS]
    return repr(value) if shown == value else f"{shown!r}..."


def _write_sorted(connection: duckdb.DuckDBPyConnection, target: Path) -> int:
    connection.execute(
        """
        COPY (
            SELECT user_id, article_id, first(region ORDER BY place) AS region_id, viewed_at
            FROM parsed GROUP BY user_id, article_id, viewed_at
            ORDER BY user_id, viewed_at, min(place)
        ) TO ? (FORMAT parquet)
        """,
        [str(target)],
    )
    row = connection.execute("SELECT count(*) FROM parsed").fetchone()
    return int(row[0]) if row else 0


def _count(connection: duckdb.DuckDBPyConnection, target: Path) -> tuple[int, ...]:
    row = connection.execute(
        """
        SELECT count(*), count(DISTINCT user_id), count(DISTINCT article_id),
            coalesce(max(region_id), -1) >= 0,
            coalesce(min(viewed_at), 0), coalesce(max(viewed_at), 0)
        FROM read_parquet(?)
        """,
        [str(target)],
    ).fetchone()
    return tuple(int(value) for value in row or ())
