"""The ordinary search, without filters and with few exclusions, in as few steps as it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex
from faiss_server.attributes import are_in, bits_of

__all__ = ["MOST_EXCLUDED", "Gone", "plain_search"]

# Up to here fetching more and dropping the excluded is faster than a selector of its own for the
# row, for which the excluded have to be found in the index: at a million articles, each search by
# another user, 0.72 ms without exclusions, 1.06 and 1.34 ms with 1,000, 2.0 and 1.9 ms with 5,000.
MOST_EXCLUDED: Final = 2048

_MORE_FOR_GONE: Final = 16
_TIMES_THEIR_SHARE: Final = 2
"""Of the nearest articles about as many are gone as of all; where more are, the search looks
closer, which takes another search."""

_NOTHING: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Gone:
    """Articles that no row may have: a bitmap of their positions, and their share of all."""

    bits: NDArray[np.uint8]
    share: float

    @classmethod
    def of(cls, positions: NDArray[np.int64], size: int) -> Self:
        """Take these positions of an index of so many articles."""
        return cls(bits_of(positions, size), positions.size / size)


Rows = tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]


def plain_search(
    index: ArticleIndex,
    vectors: NDArray[np.float32],
    k: int,
    nprobe: int,
    excluded_ids: Sequence[NDArray[np.int64]],
    gone: Gone | None = None,
) -> Rows | None:
    """Answer each row's best k article ids and scores; None where a row lacks any of them.

    Then there may be more in other lists, or fewer articles at all, which is for a search that
    looks closer. `excluded_ids` is empty or has an array of at most MOST_EXCLUDED for each row.
    Excluded ids are dropped by id, after the search: finding where in the index they are would go
    through memory for each of them.
    """
    more = max((ids.size for ids in excluded_ids), default=0)
    if gone is not None:
        more += _MORE_FOR_GONE + math.ceil(_TIMES_THEIR_SHARE * gone.share * (k + more))
    # Never more than there are: faiss fills up with -1.
    positions, scores = index.nearest(vectors, min(k + more, len(index)), nprobe)
    if positions.shape[1] < k or positions[:, -1].min() < 0 or not np.isfinite(scores).all():
        return None
    if not more:
        return list(index.article_ids[positions]), list(scores)
    ids_of_rows, scores_of_rows = [], []
    for row in range(len(vectors)):
        excluded = np.sort(excluded_ids[row]) if excluded_ids else _NOTHING
        kept, ids = _first_kept(index, positions[row], k, excluded, gone)
        if ids.size < k:
            return None
        ids_of_rows.append(ids)
        scores_of_rows.append(scores[row][kept])
    return ids_of_rows, scores_of_rows


def _first_kept(
    index: ArticleIndex,
    positions: NDArray[np.int64],
    k: int,
    excluded: NDArray[np.int64],
    gone: Gone | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Answer the places and ids of the first k that are neither excluded nor gone.

    Most of what was fetched in place of the excluded is not needed, and not looked at.
    """
    end = k
    while True:
        end = min(2 * end, positions.size)
        ids = index.article_ids[positions[:end]]
        kept = _kept(ids, excluded)
        if gone is not None:
            kept &= ~are_in(gone.bits, positions[:end])
        places = np.flatnonzero(kept)[:k]
        if places.size == k or end == positions.size:
            return places, ids[places]


def _kept(found: NDArray[np.int64], excluded: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of `found` are not among `excluded`, ascending."""
    if not excluded.size:
        return np.ones(found.size, np.bool_)
    # Not np.isin: for so few it spends ten times as long on choosing how.
    nearest = excluded.take(excluded.searchsorted(found), mode="clip")
    kept: NDArray[np.bool_] = nearest != found
    return kept
