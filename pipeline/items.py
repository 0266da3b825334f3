"""Titles and attributes of articles. Titles are for people and never part of a release."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline._tables import (
    WHOLE_NUMBER,
    Table,
    open_table,
    quoted_name,
    reading,
    whole_number,
)
from pipeline.errors import ItemsError

__all__ = ["collect_items", "read_attributes", "read_titles"]


def collect_items(items: str, workdir: Path) -> Path:
    """Read CSV or Parquet (gzip too) of `item_id,title[,...]` into `items.parquet` and name it.

    `items`: a path or any fsspec URL. A further column whose values are all whole numbers (or
    empty) becomes an attribute; other columns are ignored. Raises ItemsError with the line.
    """
    if "://" not in items:
        return _collect(Path(items), workdir)
    with _fetched(items, workdir) as copy:
        try:
            return _collect(copy, workdir)
        except ItemsError as error:
            raise ItemsError(str(error).replace(str(copy), items)) from error


@contextmanager
def _fetched(url: str, workdir: Path) -> Iterator[Path]:
    """Copy a file here for as long as it is read."""
    copy = workdir / "items.fetched"
    try:
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        system.get_file(path, str(copy))
    except Exception as cause:  # clients of S3 and GCS have no common base for theirs
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise ItemsError(f"{url} cannot be fetched: {reason}") from cause
    try:
        yield copy
    finally:
        copy.unlink()


def _collect(items: Path, workdir: Path) -> Path:
    table = open_table(items, ItemsError, ("item_id", "title"))
    target = workdir / "items.parquet"
    with reading(items, ItemsError) as connection:
        connection.execute(f"CREATE TEMP TABLE raw AS SELECT * FROM {table.relation()}")  # noqa: S608 - a quoted path
        _refuse_bad_ids(connection, table)
        extra = [name for name in table.columns if name not in ("item_id", "title")]
        columns = [name for name in extra if _is_attribute(connection, name)]
        attributes = "".join(f", {_number(name)} AS {quoted_name(name)}" for name in columns)
        connection.execute(
            f"""
            COPY (SELECT {_number("item_id")} AS article_id, coalesce(title, '') AS title
                {attributes} FROM raw ORDER BY article_id) TO ? (FORMAT parquet)
            """,  # noqa: S608 - quoted names
            [str(target)],
        )
    return target


def read_titles(items: Path, article_ids: NDArray[np.int64]) -> dict[int, str]:
    """Read the titles of these articles, by id, where `collect_items` wrote them a row.

    Only these rows are held: the titles of a large catalogue take more than all else of an article.
    """
    asked = pc.field("article_id").isin(pa.array(np.unique(article_ids)))
    table = pq.read_table(items, columns=["article_id", "title"], filters=asked)
    return dict(zip(table["article_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def read_attributes(items: Path, article_ids: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Read the attributes of these articles, in their order; -1 where an article has none."""
    table = pq.read_table(items)
    known = table["article_id"].to_numpy()
    if not len(known):
        return {}
    rows = np.minimum(np.searchsorted(known, article_ids), len(known) - 1)
    found = known[rows] == article_ids
    return {
        name: np.where(found, table[name].to_numpy()[rows], -1).astype(np.int64)
        for name in table.column_names
        if name not in ("article_id", "title")
    }


def _refuse_bad_ids(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    bad = connection.execute(
        f"SELECT item_id FROM raw WHERE {_number('item_id')} = -1 LIMIT 1"  # noqa: S608 - fixed names
    ).fetchone()
    if bad is not None:
        place = table.place_of("item_id", bad[0])
        value = bad[0] or ""
        raise ItemsError(f"{place}: item_id is {value!r}, it must be {WHOLE_NUMBER}")
    twice = connection.execute(
        f"SELECT {_number('item_id')} AS id FROM raw GROUP BY id HAVING count(*) > 1 ORDER BY id"  # noqa: S608 - fixed names
    ).fetchone()
    if twice is not None:
        raise ItemsError(f"{table.path}: item_id {twice[0]} has more than one row")


def _is_attribute(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    column = quoted_name(name)
    row = connection.execute(
        f"""
        SELECT count({column}) > 0 AND bool_and({_number(name)} >= 0)
        FROM raw WHERE nullif(trim({column}), '') IS NOT NULL
        """  # noqa: S608 - quoted names
    ).fetchone()
    return bool(row and row[0])


def _number(name: str) -> str:
    return f"coalesce({whole_number(name)}, -1)"
