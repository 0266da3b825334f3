"""The most viewed articles, overall and in each region: the answer where a user is not known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.collect.sql import WEIGHT_UNITS

__all__ = ["write_popular"]

_MOST: Final = 6_000  # the API's largest limit and the longest exclusions, with room
_MOST_BY_VALUE: Final = 100_000
"""Of the overall list, for filters: as much as the lists of 17 regions."""
_LEAST_OF_VALUE: Final = 20
"""An attribute with so many values that each would have less is like an id, and gets no room."""

_COUNT: Final = """
WITH viewed AS (SELECT * FROM read_parquet(?) SEMI JOIN vocabulary USING (article_id)),
counted AS (
    SELECT CAST(-1 AS BIGINT) AS region_ids, article_id AS article_ids,
        CAST(sum(weight) AS BIGINT) AS weight, CAST(sum(views) AS BIGINT) AS plain
    FROM viewed GROUP BY article_id
    UNION ALL
    SELECT region_id, article_id, weight, views FROM viewed WHERE region_id >= 0
)
SELECT region_ids, article_ids, CAST(weight AS DOUBLE) / ? AS views FROM counted
QUALIFY region_ids < 0
    OR row_number() OVER (
        PARTITION BY region_ids ORDER BY weight DESC, plain DESC, article_ids) <= ?
ORDER BY region_ids, weight DESC, plain DESC, article_ids
"""


def write_popular(
    article_views: Sequence[Path],
    article_ids: NDArray[np.int64],
    attributes: Mapping[str, NDArray[np.int64]],
    path: Path,
) -> None:
    """Rank by all collected views the vocabulary's articles, each user's last one included.

    `article_ids` int64[n] ascending, each attribute int64[n]. A view counts by its age; equals, as
    all whose views are too old to weigh anything, go by their plain number of views, then by id.
    The overall list also holds the most viewed articles of
    each value of each attribute, so that answers with a filter are as long as others.
    """
    with duckdb.connect() as connection:
        connection.register("vocabulary", pa.table({"article_id": article_ids}))
        columns = connection.execute(
            _COUNT, [[str(shard) for shard in article_views], WEIGHT_UNITS, _MOST]
        ).fetchnumpy()
    ranked = {name: np.asarray(values) for name, values in columns.items()}
    kept = ranked["region_ids"] >= 0
    rows = np.searchsorted(article_ids, ranked["article_ids"][~kept])
    by_rank = [values[rows] for values in attributes.values()]
    kept[: len(rows)] = _listed_overall(by_rank, len(rows))
    np.savez(path, allow_pickle=False, **{name: values[kept] for name, values in ranked.items()})


def _listed_overall(attributes: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.bool_]:
    """Tell which of the articles, most viewed first, are listed: bool[count].

    The first `_MOST`; and of each attribute's values, -1 for none among them, as many as leave room
    for all, but for attributes of too many values.
    """
    listed = np.arange(count) < _MOST
    told = [np.unique(each, return_inverse=True, return_counts=True) for each in attributes]
    told.sort(key=lambda each: len(each[0]))
    while told and _MOST_BY_VALUE // (len(told) * len(told[-1][0])) < _LEAST_OF_VALUE:
        told.pop()
    for _, codes, sizes in told:
        most = min(_MOST, _MOST_BY_VALUE // (len(told) * len(sizes)))
        by_value = np.argsort(codes, kind="stable")
        places = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        listed[by_value[places < most]] = True
    return listed
