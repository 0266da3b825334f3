"""Nearest articles in one release, with exclusions and filters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex
from faiss_server.attributes import AttributeFilter, Attributes, Matching
from faiss_server.plain_search import MOST_EXCLUDED, plain_search
from service_runtime.errors import InvalidRequestError

__all__ = ["SearchQuery", "SearchResult", "Searcher"]

# Up to here computing all scores of the matching articles is faster than finding them in the
# lists: at 300,000 articles and 64 dimensions 0.9 ms against 2.3 ms for 3,000 of them.
_FEW_MATCHING: Final = 4096

_WIDENING: Final = 4

Row = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions and scores, best first."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to search: `vectors` float32[rows, dimension], finite.

    `excluded_ids` is empty or has one int64 array for each row.
    """

    vectors: NDArray[np.float32]
    k: int
    nprobe: int | None = None
    excluded_ids: Sequence[NDArray[np.int64]] = ()
    filters: frozenset[AttributeFilter] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether no article has to be tested for more than being among a few excluded ones."""
        return not self.filters and all(ids.size <= MOST_EXCLUDED for ids in self.excluded_ids)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`counts` int32[rows]; `article_ids` int64 and `scores` float32 of all rows in a row.

    `widened`: more lists were probed than asked for.
    """

    counts: NDArray[np.int32]
    article_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    widened: bool


class Searcher:
    """Searches one index; holds nothing that changes, so any number of threads may use it."""

    def __init__(self, index: ArticleIndex, attributes: Attributes, nprobe: int) -> None:
        self._index = index
        self._attributes = attributes
        self._nprobe = nprobe

    def search(self, query: SearchQuery) -> SearchResult:
        """Answer each row's best k articles that meet the conditions, fewer if there are no more.

        Raises InvalidRequestError for an unknown attribute, too many lists, or vectors so large
        that their inner products overflow.
        """
        nprobe = self._nprobe if query.nprobe is None else query.nprobe
        if not 1 <= nprobe <= self._index.lists:
            raise InvalidRequestError(f"nprobe: {nprobe} is not 1 to {self._index.lists}")
        if query.is_plain:
            rows = plain_search(self._index, query.vectors, query.k, nprobe, query.excluded_ids)
            if rows is not None:
                counts = np.full(len(rows[0]), query.k, np.int32)
                return SearchResult(
                    counts, np.concatenate(rows[0]), np.concatenate(rows[1]), widened=False
                )
        matching = self._attributes.matching(query.filters)
        search = _Search(self._index, matching, query, self._excluded(query, matching))
        if query.filters and matching.count <= _FEW_MATCHING:
            return search.result(search.score_all(), widened=nprobe < self._index.lists)
        found, probed = search.probe(nprobe)
        return search.result(found, widened=probed > nprobe)

    def _excluded(self, query: SearchQuery, matching: Matching) -> list[NDArray[np.int64]]:
        """Positions to leave out for each row, ascending; those that match no filter anyway go."""
        if not query.excluded_ids:
            return [np.empty(0, np.int64)] * len(query.vectors)
        return [matching.among(_distinct_positions(self._index, ids)) for ids in query.excluded_ids]


def _distinct_positions(index: ArticleIndex, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    # Looking up ascending ids goes through memory in order; np.unique would hash, which is slower.
    positions = index.positions_of(np.sort(ids))
    found: NDArray[np.int64] = positions[positions >= 0]
    return found[np.diff(found, prepend=-1) > 0]


class _Search:
    """One query on its way."""

    def __init__(
        self,
        index: ArticleIndex,
        matching: Matching,
        query: SearchQuery,
        excluded: list[NDArray[np.int64]],
    ) -> None:
        self._index = index
        self._matching = matching
        self._vectors = query.vectors
        self._k = query.k
        self._excluded = excluded
        # None tests no article at all, which is faster than a selector of all.
        self._allowed = matching.selector if query.filters else None

    def score_all(self) -> list[Row]:
        """Score every matching article: no index needed where they are few."""
        positions = self._matching.positions
        vectors = self._index.vectors_at(positions)
        with np.errstate(over="ignore", invalid="ignore"):  # result() looks for it
            scores = self._vectors @ vectors.T
        order = np.argsort(-scores, axis=-1, kind="stable")
        return [
            self._without_excluded(row, positions[order[row]], scores[row][order[row]])
            for row in range(len(scores))
        ]

    def probe(self, nprobe: int) -> tuple[list[Row], int]:
        """Search the lists, more of them for as long as a row lacks articles that there are.

        Answers the rows and how many lists were probed.
        """
        # Where one article in ten matches, ten times the lists hold as many that do.
        share = self._matching.count / len(self._index)
        nprobe = min(self._index.lists, math.ceil(nprobe / share))
        rows = self._probe_rows(range(len(self._vectors)), nprobe)
        while nprobe < self._index.lists and (short := self._short(rows)):
            nprobe = min(self._index.lists, nprobe * _WIDENING)
            for number, row in zip(short, self._probe_rows(short, nprobe), strict=True):
                rows[number] = row
        return rows, nprobe

    def result(self, rows: list[Row], *, widened: bool) -> SearchResult:
        """Put the rows one after another."""
        scores = np.concatenate([row[1] for row in rows])
        # Having looked everywhere, only scores beyond float32 can leave a row short.
        if self._short(rows) or not np.isfinite(scores).all():
            raise InvalidRequestError("vectors: values so large that inner products overflow")
        return SearchResult(
            np.array([row[0].size for row in rows], np.int32),
            self._index.article_ids[np.concatenate([row[0] for row in rows])],
            scores,
            widened,
        )

    def _short(self, rows: list[Row]) -> list[int]:
        return [
            number
            for number, (row, excluded) in enumerate(zip(rows, self._excluded, strict=True))
            if row[0].size < min(self._k, self._matching.count - excluded.size)
        ]

    def _probe_rows(self, numbers: Sequence[int], nprobe: int) -> list[Row]:
        rows: dict[int, Row] = {}
        together = [number for number in numbers if self._excluded[number].size <= MOST_EXCLUDED]
        if together:
            more = max(self._excluded[number].size for number in together)
            rows |= self._fetch(together, self._k + more, nprobe, self._allowed)
        for number in numbers:
            if number not in rows:
                allowed = self._matching.without(self._excluded[number])
                rows |= self._fetch([number], self._k, nprobe, allowed)
        return [rows[number] for number in numbers]

    def _fetch(self, numbers: list[int], k: int, nprobe: int, allowed: Any) -> dict[int, Row]:
        k = min(k, self._matching.count)
        positions, scores = self._index.nearest(self._vectors[numbers], k, nprobe, allowed)
        return {
            number: self._without_excluded(number, *row)
            for number, *row in zip(numbers, positions, scores, strict=True)
        }

    def _without_excluded(
        self, number: int, positions: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> Row:
        kept = positions >= 0
        excluded = self._excluded[number]
        if excluded.size:
            places = np.searchsorted(excluded, positions)
            places[places == excluded.size] = 0
            kept &= excluded[places] != positions
        return positions[kept][: self._k], scores[kept][: self._k]
