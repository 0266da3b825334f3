"""Nearest articles in one release, with exclusions and filters."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex
from faiss_server.attributes import AttributeFilter, Attributes, Matching
from faiss_server.plain_search import MOST_EXCLUDED, Gone, plain_search
from faiss_server.scan import scan
from service_runtime.errors import InvalidRequestError

__all__ = ["SearchQuery", "SearchResult", "Searcher", "TimeLeft"]

# Up to here computing all scores of the matching articles, which is exact, is also faster than
# finding them in the lists: at a million articles and 64 dimensions 0.4 ms for 5,000 of them and
# 1.4 ms for 20,000, where searches that find nearly all of them take 1 to 4 ms.
_FEW_MATCHING: Final = 16_384

# Where one article in n matches, the nearest k of them are among some n * k nearest, which lie in
# more lists, but not in n times as many: at a million articles 5 times the lists for n = 20.
_LISTS_BY_SHARE: Final = 0.5

_SETTLED_SHARE: Final = 0.005
"""A row is settled when twice the lists change no more of it than this."""
_WIDENING: Final = 2
_WIDENING_WHERE_SHORT: Final = 4

Row = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions and scores, best first."""

TimeLeft = Callable[[], float]
"""Seconds until an answer is of no use any more."""


def _forever() -> float:
    return math.inf


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

    `widened`: more lists were probed than asked for. `cut_short`: there was no time to probe as
    many as it takes to be sure; a row may then be shorter than there are articles.
    """

    counts: NDArray[np.int32]
    article_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    widened: bool
    cut_short: bool = False


class Searcher:
    """Searches one index. Any number of threads may use it, also while `leave_out` is called."""

    def __init__(self, index: ArticleIndex, attributes: Attributes, nprobe: int) -> None:
        self._index = index
        self._attributes = attributes
        self._nprobe = nprobe
        self._gone: Gone | None = None

    def leave_out(self, article_ids: NDArray[np.int64]) -> None:
        """Never answer these articles, int64[n], from now on; in the place of those before."""
        positions = self._index.positions_of(article_ids)
        positions = positions[positions >= 0]
        # Replaced whole: a search goes on with what it began with.
        self._gone = Gone.of(positions, len(self._index)) if positions.size else None

    def search(self, query: SearchQuery, time_left: TimeLeft = _forever) -> SearchResult:
        """Answer each row's best k articles that meet the conditions, fewer if there are no more.

        Raises InvalidRequestError for an unknown attribute, too many lists, or vectors so large
        that their inner products overflow.
        """
        nprobe = self._nprobe if query.nprobe is None else query.nprobe
        if not 1 <= nprobe <= self._index.lists:
            raise InvalidRequestError(f"nprobe: {nprobe} is not 1 to {self._index.lists}")
        gone = self._gone
        if query.is_plain:
            rows = plain_search(
                self._index, query.vectors, query.k, nprobe, query.excluded_ids, gone
            )
            if rows is not None:
                counts = np.full(len(rows[0]), query.k, np.int32)
                return SearchResult(
                    counts, np.concatenate(rows[0]), np.concatenate(rows[1]), widened=False
                )
        matching = self._attributes.matching(query.filters)
        if gone is not None:
            matching = matching.minus(gone.bits)
        search = _Search(self._index, matching, query, self._excluded(query, matching))
        if search.is_narrowed and matching.count <= _FEW_MATCHING:
            return search.result(search.score_all(), widened=nprobe < self._index.lists)
        found, probed, cut_short = search.probe(nprobe, time_left)
        return search.result(found, widened=probed > nprobe, cut_short=cut_short)

    def scan(self, query: SearchQuery) -> Iterator[NDArray[np.int64]]:
        """Search exactly for the first row, a part of the articles at a time.

        Yields positions as `faiss_server.scan` does. Raises InvalidRequestError for an unknown
        attribute.
        """
        gone, matching = self._gone, self._attributes.matching(query.filters)
        if gone is not None:
            matching = matching.minus(gone.bits)
        excluded = self._excluded(query, matching)[0]
        return scan(self._index, matching, query.vectors[0], query.k, excluded)

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
        self._is_filtered = bool(query.filters)
        self.is_narrowed = matching.count < matching.size
        """Whether any article at all is left out, for whatever reason."""
        # None tests no article at all, which is faster than a selector of all.
        self._allowed = matching.selector if self.is_narrowed else None

    def score_all(self) -> list[Row]:
        """Score every matching article: no index needed where they are few."""
        positions = self._matching.positions
        vectors = self._index.vectors_at(positions)
        with np.errstate(over="ignore", invalid="ignore"):  # result() looks for it
            scores = self._vectors @ vectors.T
        return [
            self._without_excluded(number, positions[best], row[best])
            for number, row in enumerate(scores)
            for best in (_best(row, self._k + self._excluded[number].size),)
        ]

    def probe(self, nprobe: int, time_left: TimeLeft) -> tuple[list[Row], int, bool]:
        """Search the lists, more of them until each row has what there is.

        A filter's articles may lie anywhere, so its rows have to be settled too: the first lists
        may fill the page and still miss better ones. Answers the rows, how many lists were probed,
        and whether there was no time for more.
        """
        # What is merely taken down is few, and lies no further away for it.
        share = self._matching.count / len(self._index) if self._is_filtered else 1.0
        nprobe = min(self._index.lists, math.ceil(nprobe * share**-_LISTS_BY_SHARE))
        started = time.perf_counter()
        rows = self._probe_rows(range(len(self._vectors)), nprobe)
        unsettled = list(range(len(rows))) if self._is_filtered else self._short(rows)
        while nprobe < self._index.lists and unsettled:
            widening = _WIDENING_WHERE_SHORT if self._short(rows) else _WIDENING
            if time_left() < widening * (time.perf_counter() - started):
                return rows, nprobe, True
            nprobe = min(self._index.lists, nprobe * widening)
            started = time.perf_counter()
            before = [rows[number] for number in unsettled]
            for number, row in zip(unsettled, self._probe_rows(unsettled, nprobe), strict=True):
                rows[number] = row
            short = set(self._short(rows))
            unsettled = [
                number
                for number, row in zip(unsettled, before, strict=True)
                if number in short or (self._is_filtered and self._differ(row, rows[number]))
            ]
        return rows, nprobe, False

    def result(self, rows: list[Row], *, widened: bool, cut_short: bool = False) -> SearchResult:
        """Put the rows one after another."""
        scores = np.concatenate([row[1] for row in rows])
        # Having looked everywhere, only scores beyond float32 can leave a row short.
        if (self._short(rows) and not cut_short) or not np.isfinite(scores).all():
            raise InvalidRequestError("vectors: values so large that inner products overflow")
        return SearchResult(
            np.array([row[0].size for row in rows], np.int32),
            self._index.article_ids[np.concatenate([row[0] for row in rows])],
            scores,
            widened,
            cut_short,
        )

    def _differ(self, before: Row, after: Row) -> bool:
        added = after[0].size - np.intersect1d(before[0], after[0], assume_unique=True).size
        return bool(added > _SETTLED_SHARE * self._k)

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


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Answer the places of the k largest scores, best first, equal ones in order."""
    if k >= scores.size:
        return np.argsort(-scores, kind="stable")
    # Several may have the score of the last: all of them are put in order before any is dropped.
    last = np.partition(scores, scores.size - k)[scores.size - k]
    places = np.flatnonzero(~(scores < last))
    return places[np.argsort(-scores[places], kind="stable")[:k]]
