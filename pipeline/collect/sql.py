"""The queries, written once for BigQuery; sqlglot writes them for DuckDB.

Views are kept in a small table of their own, one row for a user, an article and a second: the
log itself is nested, huge, and charged by the bytes that are read.
"""

from datetime import date
from typing import Final

import sqlglot

from pipeline.options import LATEST_SECOND

__all__ = [
    "ADD_LOG_DAY",
    "CREATE_VIEWS",
    "MOST_USER_ID_BYTES",
    "TABLE_DAY",
    "WEIGHT_UNITS",
    "article_views",
    "counts",
    "day_of_a_file",
    "extract_firebase",
    "for_duckdb",
    "histories",
    "merge",
    "summary",
    "watermark",
]

CREATE_VIEWS: Final = """
CREATE TABLE IF NOT EXISTS {views} (
    user_id STRING NOT NULL,
    article_id INT64 NOT NULL,
    region_id INT64 NOT NULL,
    viewed_at INT64 NOT NULL,
    place INT64 NOT NULL,
    day DATE NOT NULL,
    log_day DATE
) PARTITION BY day CLUSTER BY user_id
"""
"""`place` orders views of the same second; `day` is that of the view in UTC, `log_day` that of the
daily file or table which it came with."""

ADD_LOG_DAY: Final = "ALTER TABLE {views} ADD COLUMN IF NOT EXISTS log_day DATE"
"""Of a table that was made without; its log is read anew once, which adds nothing twice."""

TABLE_DAY: Final = "PARSE_DATE('%Y%m%d', LEFT(_TABLE_SUFFIX, 8))"
"""The `log_day` of what comes out of a daily table."""

MOST_USER_ID_BYTES: Final = 256
"""The recommender takes no longer ones."""

_DAYS_AHEAD: Final = 2  # time zones, and clocks that are a little fast

# A table of no day gives no `log_day`. Where a value is missing this is NULL, which is not true.
_USABLE: Final = f"""BYTE_LENGTH(CAST(user_id AS STRING)) <= {MOST_USER_ID_BYTES}
        AND article_id >= 0 AND viewed_at BETWEEN 0 AND
        COALESCE((UNIX_DATE(log_day) + {_DAYS_AHEAD + 1}) * 86400 - 1, {LATEST_SECOND})"""

WEIGHT_UNITS: Final = 1 << 20
"""What a view that has just come weighs."""


def for_duckdb(text: str) -> str:
    """Write a query of this module in DuckDB's dialect, which has no partitions."""
    (statement,) = sqlglot.parse(text, read="bigquery")
    if statement is None:
        raise ValueError("there is no statement in the text")
    for name in ("PartitionedByProperty", "ClusterProperty"):
        for found in list(statement.find_all(getattr(sqlglot.exp, name))):
            found.pop()
    return str(statement.sql(dialect="duckdb"))


def watermark(views: str, today: date) -> str:
    """Ask for the newest day of the log that views came with: no second record that could disagree.

    The views' own days are those of the users' clocks, and so no measure of what was read. A day
    after `today`, of a file that is named wrongly, is none either.
    """
    return f"SELECT MAX(log_day) AS newest FROM {views} WHERE log_day <= DATE '{today}'"  # noqa: S608 - a quoted name


def day_of_a_file(day: date | None) -> str:
    """Write the `log_day` of what comes out of a file; None: it is of no day."""
    return "CAST(NULL AS DATE)" if day is None else f"DATE '{day}'"


def extract_firebase(source: str, event_name: str, article: str, region: str, log_day: str) -> str:
    """Read views out of a table as Firebase exports it: nested parameters, one row an event.

    A user without an id, which apps clear with an empty text, is known by that of the device. An
    article that is not a whole number of 0 or more gives NULL, a region that is not gives -1.
    `log_day` is an expression: TABLE_DAY, or a `day_of_a_file`.
    """
    number = (
        "(SELECT COALESCE(param.value.int_value, SAFE_CAST(param.value.string_value AS INT64)) "
        "FROM UNNEST(event_params) AS param WHERE param.key = '{}' LIMIT 1)"
    )
    return f"""
SELECT
    COALESCE(NULLIF(user_id, ''), NULLIF(user_pseudo_id, '')) AS user_id,
    {number.format(article)} AS article_id,
    GREATEST(COALESCE({number.format(region)}, -1), -1) AS region_id,
    DIV(event_timestamp, 1000000) AS viewed_at,
    event_timestamp AS place,
    {log_day} AS log_day
FROM {source}
WHERE event_name = '{event_name}'
"""  # noqa: S608 - names out of the settings, which are checked


def merge(views: str, fresh: str, earliest: date) -> str:
    """Add the views of `fresh` that are not there yet; running it again adds nothing.

    `earliest` is the day before which no fresh view is: older partitions are not read.
    """
    return f"""
MERGE INTO {views} AS kept
USING (
    SELECT user_id, article_id, viewed_at, MAX(region_id) AS region_id, MIN(place) AS place,
        DATE(TIMESTAMP_SECONDS(viewed_at)) AS day, MAX(log_day) AS log_day
    FROM ({fresh}) AS extracted
    WHERE {_USABLE}
    GROUP BY user_id, article_id, viewed_at
) AS fresh
ON kept.user_id = fresh.user_id AND kept.article_id = fresh.article_id
    AND kept.viewed_at = fresh.viewed_at AND kept.day >= DATE '{earliest:%Y-%m-%d}'
WHEN NOT MATCHED THEN INSERT
    (user_id, article_id, region_id, viewed_at, place, day, log_day)
    VALUES (fresh.user_id, fresh.article_id, fresh.region_id, fresh.viewed_at, fresh.place,
        fresh.day, fresh.log_day)
"""  # noqa: S608 - see above


def counts(fresh: str) -> str:
    """Count the events of an extraction, and those that are no usable view.

    These lack a user or an article, have a user id that is too long, or claim to come more than two
    days after the day of the log that they came with.
    """
    return f"""
SELECT COUNT(*) AS events, COUNT(*) - COUNTIF({_USABLE}) AS bad,
    MIN(CASE WHEN {_USABLE} THEN viewed_at END) AS earliest
FROM ({fresh}) AS extracted
"""  # noqa: S608 - see above


def histories(views: str, since: int, until: int, most: int) -> str:
    """Gather each user's newest `most` views of a window of time, oldest first.

    Grouping belongs here and not into Beam, whose direct runner would hold it in memory.
    """
    order = "viewed_at, place, article_id"
    return f"""
SELECT user_id,
    ARRAY_AGG(article_id ORDER BY {order}) AS article_ids,
    ARRAY_AGG(region_id ORDER BY {order}) AS region_ids,
    ARRAY_AGG(viewed_at ORDER BY {order}) AS viewed_at
FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY user_id ORDER BY viewed_at DESC, place DESC, article_id DESC) AS age
    FROM ({_window(views, since, until)}) AS seen
) AS numbered
WHERE age <= {most}
GROUP BY user_id
ORDER BY user_id
"""  # noqa: S608 - see above


def article_views(views: str, since: int, until: int, newest: int, half_life_seconds: float) -> str:
    """Count the views of each article in each region, and add up what they still weigh.

    A view weighs half as much for each half-life that it came before `newest`, and one that was
    added since that was asked for no more than the newest. Weights are whole numbers of
    WEIGHT_UNITS, so that their sum is the same in whatever order they are added.
    """
    age = f"LEAST(0, viewed_at - {newest})"
    weight = f"{WEIGHT_UNITS} * POW(2, {age} / {half_life_seconds!r})"
    return f"""
SELECT article_id, region_id, COUNT(*) AS views,
    CAST(SUM(CAST(ROUND({weight}) AS INT64)) AS INT64) AS weight
FROM ({_window(views, since, until)}) AS seen
GROUP BY article_id, region_id
ORDER BY article_id, region_id
"""  # noqa: S608 - see above


def summary(views: str, since: int, until: int, most: int) -> str:
    """Count what the window holds, and what is left out of it."""
    return f"""
SELECT
    (SELECT COUNT(*) FROM {views} WHERE viewed_at >= {until}) AS future,
    COALESCE(SUM(GREATEST(views - {most}, 0)), 0) AS over_the_cap,
    COALESCE(SUM(views), 0) AS views, COUNT(*) AS users,
    (SELECT COUNT(DISTINCT article_id) FROM ({_window(views, since, until)}) AS seen) AS articles,
    COALESCE(MAX(region), -1) AS region, COALESCE(MIN(first_at), 0) AS first_at,
    COALESCE(MAX(last_at), 0) AS last_at
FROM (
    SELECT COUNT(*) AS views, MAX(region_id) AS region, MIN(viewed_at) AS first_at,
        MAX(viewed_at) AS last_at
    FROM ({_window(views, since, until)}) AS seen
    GROUP BY user_id
) AS by_user
"""  # noqa: S608 - see above


def _window(views: str, since: int, until: int) -> str:
    """Say the window by day too, so that BigQuery reads no other partitions."""
    return f"""SELECT * FROM {views}
    WHERE viewed_at >= {since} AND viewed_at < {until}
        AND day >= DATE(TIMESTAMP_SECONDS({since})) AND day <= DATE(TIMESTAMP_SECONDS({until}))"""  # noqa: S608 - see above
