"""CSV (gzip too) and Parquet as one kind of source for DuckDB, every column text."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PipelineError

__all__ = [
    "WHOLE_NUMBER",
    "Table",
    "open_table",
    "quoted_name",
    "reading",
    "reading_with",
    "whole_number",
]

WHOLE_NUMBER: Final = f"a whole number from 0 to {(1 << 63) - 1}"
"""What `whole_number` takes, in words."""

_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
# Other tools write 7 as 7.0 where a column has gaps.
_WHOLE = r"'\d{1,19}(\.0*)?'"
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, pa.ArrowException)


@dataclass(frozen=True)
class Table:
    """A source file whose columns are known; every value reads as text, empty ones as NULL."""

    path: Path
    columns: tuple[str, ...]
    is_parquet: bool
    is_gzip: bool

    def relation(self) -> str:
        """Write the SQL of a relation with all columns as VARCHAR, in the order of the file."""
        path = _quoted(str(self.path), "'")
        if self.is_parquet:
            names = (quoted_name(name) for name in self.columns)
            casts = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in names)
            return f"(SELECT {casts} FROM read_parquet({path}))"  # noqa: S608 - quoted names
        types = ", ".join(_quoted(name, "'") + ": 'VARCHAR'" for name in self.columns)
        return (
            f"read_csv({path}, columns={{{types}}}, header=true, auto_detect=false, delim=',', "
            f"quote='\"', escape='\"', null_padding=true, parallel=false, "
            f"compression='{'gzip' if self.is_gzip else 'none'}')"
        )

    def place_of(self, column: str, value: str | None) -> str:
        """Say where `value` first stands in `column`: the line, or the row of a Parquet file."""
        if self.is_parquet:
            return f"{self.path}: row {self._row_of(column, value or '')}"
        return f"{self.path}: line {self._line_of(self.columns.index(column), value or '')}"

    def _row_of(self, column: str, value: str) -> int:
        path, name = _quoted(str(self.path), "'"), quoted_name(column)
        with reading(self.path, PipelineError) as connection:
            row = connection.execute(
                f"""
                SELECT min(file_row_number) + 1 FROM read_parquet({path}, file_row_number=true)
                WHERE coalesce(CAST({name} AS VARCHAR), '') = ?
                """,  # noqa: S608 - quoted
                [value],
            ).fetchone()
        return int(row[0]) if row and row[0] else 0

    def _line_of(self, position: int, value: str) -> int:
        with _open_text(self.path, gzipped=self.is_gzip) as stream:
            reader = csv.reader(stream)
            next(reader)
            for row in reader:
                if row and (row[position] if position < len(row) else "") == value:
                    return reader.line_num
        return 0


def open_table(path: Path, error: type[PipelineError], required: tuple[str, ...]) -> Table:
    """Look at a file's kind and columns; raise `error` when it cannot be read or lacks a column."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
        is_parquet, is_gzip = magic == _PARQUET_MAGIC, magic.startswith(_GZIP_MAGIC)
        columns = _parquet_columns(path) if is_parquet else _csv_columns(path, gzipped=is_gzip)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except _UNREADABLE as cause:
        raise error(f"{path}: neither readable CSV (UTF-8) nor Parquet: {cause}") from None
    if not columns:
        raise error(f"{path}: the file is empty; it needs a header and rows")
    for name in required:
        if name not in columns:
            found = ", ".join(columns)
            raise error(f"{path}: column {name} is missing; the columns are: {found}")
    if len(set(columns)) != len(columns):
        raise error(f"{path}: line 1: two columns have the same name: {', '.join(columns)}")
    return Table(path, columns, is_parquet, is_gzip)


@contextmanager
def reading(path: Path, error: type[PipelineError]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Hand out a connection; what DuckDB cannot read becomes `error` in one line."""
    with duckdb.connect() as connection, reading_with(path, error):
        connection.execute("SET TimeZone='UTC'")
        yield connection


@contextmanager
def reading_with(path: Path, error: type[PipelineError]) -> Iterator[None]:
    """Turn what DuckDB cannot read into `error` in one line."""
    try:
        yield
    except duckdb.Error as cause:
        first_line = str(cause).splitlines()[0]
        raise error(f"{path}: cannot be read: {first_line}") from None


def whole_number(name: str) -> str:
    """Write the SQL of a text column as BIGINT, NULL where it is no WHOLE_NUMBER."""
    column = f"trim({quoted_name(name)})"
    return (
        f"CASE WHEN regexp_full_match({column}, {_WHOLE}) "
        f"THEN TRY_CAST(split_part({column}, '.', 1) AS BIGINT) END"
    )


def quoted_name(name: str) -> str:
    """Write a column's name as SQL."""
    return _quoted(name, '"')


def _csv_columns(path: Path, *, gzipped: bool) -> tuple[str, ...]:
    with _open_text(path, gzipped=gzipped) as stream:
        return tuple(name.strip() for name in next(csv.reader(stream), []))


def _parquet_columns(path: Path) -> tuple[str, ...]:
    return tuple(pq.read_schema(path).names)


def _open_text(path: Path, *, gzipped: bool) -> TextIO:
    if gzipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark * 2) + mark
