"""The views of the users that a release was learnt from, as the workflow collected them."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

__all__ = ["UserViews", "last_views", "titles"]

_LAST_VIEWS = """
WITH viewed AS (
    SELECT user_id, unnest(article_ids) AS article_id, unnest(viewed_at) AS viewed_at,
        generate_subscripts(article_ids, 1) AS place
    FROM read_parquet(?)
), latest AS (
    SELECT user_id, article_id, max(viewed_at) AS viewed_at, max(place) AS place
    FROM viewed GROUP BY user_id, article_id
), numbered AS (
    SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY place DESC) AS age FROM latest
)
SELECT user_id, list(article_id ORDER BY age DESC), list(viewed_at ORDER BY age DESC)
FROM numbered WHERE age <= ? GROUP BY user_id ORDER BY user_id
"""


@dataclass(frozen=True)
class UserViews:
    """The articles a user viewed last, oldest first; times in unix seconds."""

    user_id: str
    article_ids: list[int]
    viewed_at: list[int]


def last_views(collected: Path, count: int) -> list[UserViews]:
    """Read each user's last `count` articles from the folder of the step `collect`.

    Each stands at its latest view, as in the recommender's history.
    """
    with duckdb.connect() as connection:
        rows = connection.execute(
            _LAST_VIEWS, [str(collected / "histories" / "*.parquet"), count]
        ).fetchall()
    return [UserViews(*row) for row in rows]


def titles(items: Path) -> dict[int, str]:
    """Read the titles by article id; none where the run had no items."""
    if not items.exists():
        return {}
    with duckdb.connect() as connection:
        query = "SELECT article_id, title FROM read_parquet(?)"
        return dict(connection.execute(query, [str(items)]).fetchall())
