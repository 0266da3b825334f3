"""Daily tables as Firebase exports them to BigQuery, as Parquet."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["write_firebase"]

_VALUE = pa.struct([("string_value", pa.string()), ("int_value", pa.int64())])
_SCHEMA = pa.schema(
    {
        "event_name": pa.string(),
        "event_timestamp": pa.int64(),
        "event_params": pa.list_(pa.struct([("key", pa.string()), ("value", _VALUE)])),
        "user_id": pa.string(),
        "user_pseudo_id": pa.string(),
    }
)


def write_firebase(
    path: Path,
    views: Iterable[tuple[str, object, int, int | None]],
    name: str = "view_article",
    user_id: str | None = None,
) -> Path:
    """Write views of user, article (text where it is no integer), unix second and region.

    Users are known by their devices; `user_id` is what the app gave as that of all of them.
    """
    rows = []
    for place, (user, article, second, region) in enumerate(views):
        number = article if isinstance(article, int) else None
        text = None if number is not None else str(article)
        params = [
            {"key": "screen", "value": {"string_value": "feed", "int_value": None}},
            {"key": "article_id", "value": {"string_value": text, "int_value": number}},
        ]
        if region is not None:
            params.append(
                {"key": "region_id", "value": {"string_value": None, "int_value": region}}
            )
        rows.append(
            {
                "event_name": name,
                "event_timestamp": second * 1_000_000 + place,
                "event_params": params,
                "user_id": user_id,
                "user_pseudo_id": user,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)
    return path
