"""Reading `popular.npz` and `attributes.npz`, whose layout is in `releases.layout`."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.attributes import NO_VALUE
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.popular import PopularLists, popular_lists

__all__ = ["AttributeTable", "read_attribute_table", "read_popular_lists"]

_PREFIX: Final = "attribute:"


@dataclass(frozen=True, slots=True)
class AttributeTable:
    """Attributes as stored: `article_ids` int64[n] ascending, each column int64[n]."""

    article_ids: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.int64]]

    def of(self, article_ids: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Answer all columns for these articles; NO_VALUE for those the table does not have."""
        if not self.article_ids.size:
            return {name: np.full(article_ids.size, NO_VALUE) for name in self.columns}
        rows = np.searchsorted(self.article_ids, article_ids)
        rows[rows == self.article_ids.size] = 0
        found = self.article_ids[rows] == article_ids
        return {
            name: np.where(found, column[rows], NO_VALUE) for name, column in self.columns.items()
        }


def read_attribute_table(path: Path) -> AttributeTable:
    """Read and check an attribute file; raises ReleaseRefusedError."""
    with _refusing(path):
        arrays = _read_columns(path)
        if "article_ids" not in arrays:
            raise ValueError("article_ids is missing")
        article_ids = arrays.pop("article_ids")
        if (article_ids < 0).any() or (article_ids[1:] <= article_ids[:-1]).any():
            raise ValueError("article_ids is negative or not ascending")
        for name in arrays:
            if not name.startswith(_PREFIX) or name == _PREFIX:
                raise ValueError(f"{name!r} is not called {_PREFIX}<name>")
        columns = {name.removeprefix(_PREFIX): column for name, column in arrays.items()}
        return AttributeTable(article_ids, columns)


def read_popular_lists(path: Path, attributes: AttributeTable) -> PopularLists:
    """Read and check a file of popular articles; raises ReleaseRefusedError."""
    with _refusing(path):
        arrays = _read_columns(path, fractions=("views",))
        if arrays.keys() != {"region_ids", "article_ids", "views"}:
            raise ValueError(f"holds {sorted(arrays)}, not article_ids, region_ids, views")
        return popular_lists(**arrays, attributes_of=attributes.of)


def _read_columns(path: Path, fractions: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Read int64[n] arrays; those named `fractions` may be float64."""
    # Pickles run code when they are read. NumPy leaves a file open that is no archive.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        # They are written as they are: what is larger than its file would fill the memory.
        if sum(member.file_size for member in file.zip.infolist()) > path.stat().st_size:
            raise ValueError("its columns are compressed")
        arrays = {name: file[name] for name in file.files}
    for name, array in arrays.items():
        is_fraction = name in fractions and array.dtype == np.float64
        if (array.dtype != np.int64 and not is_fraction) or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not int64[n]")
    if len({array.size for array in arrays.values()}) > 1:
        raise ValueError("the columns differ in length")
    return arrays


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise ReleaseRefusedError(RefusalReason.TABLES, f"{path}: {error}") from error
