"""Attributes of articles, and which articles meet conditions on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from service_runtime.errors import InvalidRequestError

__all__ = ["NO_VALUE", "AttributeFilter", "Attributes", "Matching", "are_in", "bits_of"]

NO_VALUE: Final = -1
"""The value of an article that does not have the attribute."""

# Callers use few different filters; those with many values are of one user and not seen again.
# One entry takes at most 0.1 MB for the values (about 100 bytes each, of which there are 1,000),
# a bit per article, and 128 KB for the positions of few articles: at a million articles all
# entries of a release take 11 MB.
_REMEMBERED_FILTERS: Final = 32
_REMEMBERED_VALUES: Final = 1000


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """A condition on one attribute: its value is one of `values`, or (`negated`) none of them."""

    attribute: str
    values: frozenset[int]
    negated: bool


class Matching:
    """The articles that meet all conditions."""

    def __init__(self, bits: NDArray[np.uint8], size: int, base: "Matching | None" = None) -> None:
        self.bits = bits
        """One bit per position."""
        self.size = size
        self.count = int(np.bitwise_count(bits).sum(dtype=np.int64))
        self._base = base

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Self:
        """Take the articles whose value is true, bool[n] by position."""
        return cls(np.packbits(mask, bitorder="little"), mask.size)

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The positions of the articles, ascending."""
        if self._base is not None:
            return self.among(self._base.positions)
        mask = np.unpackbits(self.bits, count=self.size, bitorder="little")
        positions: NDArray[np.int64] = np.flatnonzero(mask)
        return positions

    @cached_property
    def selector(self) -> Any:
        """A faiss IDSelector of them; reading it from many threads is safe."""
        return faiss.IDSelectorBitmap(self.bits)

    def among(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Answer those of `positions` that are of these articles."""
        found: NDArray[np.int64] = positions[are_in(self.bits, positions)]
        return found

    def minus(self, gone: NDArray[np.uint8]) -> "Matching":
        """Answer these articles without those of a bitmap of all positions."""
        return Matching(self.bits & ~gone, self.size, base=self)

    def without(self, positions: NDArray[np.int64]) -> Any:
        """Answer a faiss IDSelector of these articles but for those at `positions`."""
        return faiss.IDSelectorBitmap(self.bits_without(positions))

    def bits_without(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Answer a bitmap of these articles but for those at `positions`."""
        bits = self.bits.copy()
        # Only the bytes concerned: a mask of all positions takes a hundred times as long.
        np.bitwise_and.at(bits, positions >> 3, ~_bit(positions))
        return bits


def bits_of(positions: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Make a bitmap of `size` positions with these in it."""
    bits = np.zeros((size + 7) // 8, np.uint8)
    np.bitwise_or.at(bits, positions >> 3, _bit(positions))
    return bits


def are_in(bits: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Answer for each position whether it is in a bitmap."""
    found: NDArray[np.bool_] = (bits[positions >> 3] & _bit(positions)).astype(np.bool_)
    return found


def _bit(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    bit: NDArray[np.uint8] = np.left_shift(1, positions & 7).astype(np.uint8)
    return bit


@dataclass(frozen=True, slots=True)
class _Column:
    values: NDArray[np.int64]
    """Ascending, distinct."""
    codes: NDArray[np.unsignedinteger[Any]]
    """For each position, the place of its value in `values`."""


class Attributes:
    """Columns of attribute values, one value for each position."""

    def __init__(self, columns: Mapping[str, NDArray[np.int64]], size: int) -> None:
        self._columns = {name: _encode(column) for name, column in columns.items()}
        # Bound to the columns, not to self: a cycle would outlive the release's last search.
        self._find = partial(_matching, self._columns, size)
        self._remembered = lru_cache(_REMEMBERED_FILTERS)(self._find)

    def matching(self, filters: frozenset[AttributeFilter]) -> Matching:
        """Find the articles that meet all filters.

        Raises InvalidRequestError for an attribute that the release does not have.
        """
        for condition in filters:
            if condition.attribute not in self._columns:
                known = ", ".join(sorted(self._columns)) or "none"
                raise InvalidRequestError(
                    f"filters.attribute: the release has no attribute {condition.attribute!r}; "
                    f"it has: {known}"
                )
        few = sum(len(condition.values) for condition in filters) <= _REMEMBERED_VALUES
        return self._remembered(filters) if few else self._find(filters)


def _encode(column: NDArray[np.int64]) -> _Column:
    values, codes = np.unique(column, return_inverse=True)
    return _Column(values, codes.astype(np.min_scalar_type(values.size)))


def _matching(
    columns: Mapping[str, _Column], size: int, filters: frozenset[AttributeFilter]
) -> Matching:
    mask = np.ones(size, np.bool_)
    for name in {condition.attribute for condition in filters}:
        column = columns[name]
        of_column = (condition for condition in filters if condition.attribute == name)
        mask &= _allowed_values(column.values, of_column)[column.codes]
    return Matching.of(mask)


def _allowed_values(values: NDArray[np.int64], filters: Any) -> NDArray[np.bool_]:
    allowed = np.ones(values.size, np.bool_)
    for condition in filters:
        listed = np.isin(values, np.fromiter(condition.values, np.int64), assume_unique=True)
        allowed &= ~listed if condition.negated else listed
    return allowed
