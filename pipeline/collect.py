"""The first step: any file of events becomes one clean columnar table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from pipeline._tables import Table, open_table, reading, whole_number
from pipeline.errors import EventsError
from pipeline.items import collect_items
from pipeline.records import StepRecord

__all__ = ["CollectedEvents", "collect"]

_LATEST_SECOND: Final = 253_402_300_799  # 9999-12-31; a time in milliseconds is beyond it
_MOST_USER_ID_BYTES: Final = 256  # the recommender takes no longer ones
_SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True)
class CollectedEvents(StepRecord):
    event_count: int
    user_count: int
    article_count: int
    duplicates_dropped: int
    has_regions: bool
    first_event: int
    last_event: int
    has_items: bool

    @property
    def histories(self) -> tuple[Path, ...]:
        return tuple(sorted((self.directory / "histories").glob("*.parquet")))

    @property
    def article_views(self) -> Path:
        return self.directory / "article_views.parquet"

    @property
    def items(self) -> Path | None:
        return self.directory / "items.parquet" if self.has_items else None


def collect(events: Path, items: Path | None, directory: Path) -> CollectedEvents:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "histories").mkdir(exist_ok=True)
    table = open_table(events, EventsError, ("user_id", "item_id", "timestamp"))
    target = directory / "events.parquet"
    with reading(events, EventsError) as connection:
        _parse(connection, table)
        _refuse_bad_values(connection, table)
        rows = _write_sorted(connection, target)
        counts = _count(connection, target)
        connection.execute(f"""COPY (SELECT user_id, list(article_id ORDER BY n) AS article_ids,
            list(region_id ORDER BY n) AS region_ids, list(viewed_at ORDER BY n) AS viewed_at FROM (SELECT *, row_number() OVER () AS n FROM read_parquet('{target}')) GROUP BY user_id ORDER BY user_id)
            TO '{directory}/histories/part-00000.parquet' (FORMAT parquet, ROW_GROUP_SIZE 2048)""")
        connection.execute(f"""COPY (SELECT article_id, region_id, count(*) AS views FROM read_parquet('{target}') GROUP BY ALL)
            TO '{directory}/article_views.parquet' (FORMAT parquet)""")
    if not rows:
        raise EventsError(f"{events}: the file has a header and no events")
    if items is not None:
        collect_items(items, directory)
    return CollectedEvents(
        directory=directory,
        duplicates_dropped=rows - counts[0],
        event_count=counts[0],
        user_count=counts[1],
        article_count=counts[2],
        has_regions=bool(counts[3]),
        first_event=counts[4],
        last_event=counts[5],
        has_items=items is not None,
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
