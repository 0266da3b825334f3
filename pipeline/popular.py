"""The most viewed articles, overall and in each region: the answer where a user is not known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["write_popular"]

_MOST: Final = 6_000  # the API's largest limit and the longest exclusions, with room

_COUNT: Final = """
WITH viewed AS (SELECT * FROM read_parquet(?) SEMI JOIN vocabulary USING (article_id)),
counted AS (
    SELECT CAST(-1 AS BIGINT) AS region_ids, article_id AS article_ids,
        CAST(sum(views) AS BIGINT) AS views
    FROM viewed GROUP BY article_id
    UNION ALL
    SELECT region_id, article_id, views FROM viewed WHERE region_id >= 0
)
SELECT * FROM counted
QUALIFY row_number() OVER (PARTITION BY region_ids ORDER BY views DESC, article_ids) <= ?
ORDER BY region_ids, views DESC, article_ids
"""


def write_popular(article_views: Sequence[Path], vocabulary: NDArray[np.int64], path: Path) -> None:
    """Rank by all collected views the vocabulary's articles, each user's last one included.

    Smaller article ids come first among equals.
    """
    with duckdb.connect() as connection:
        connection.register("vocabulary", pa.table({"article_id": vocabulary}))
        columns = connection.execute(
            _COUNT, [[str(shard) for shard in article_views], _MOST]
        ).fetchnumpy()
    np.savez(path, allow_pickle=False, **{name: np.asarray(v) for name, v in columns.items()})
