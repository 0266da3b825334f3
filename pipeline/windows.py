"""Histories as rows, gathered by the batch: what Redis would hold at a moment, newest first."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from releases.layout import HISTORY_LENGTH

__all__ = ["Repeats", "find_repeats", "history_windows"]

_NEVER: Final = np.iinfo(np.int32).max
_PLACES_AT_ONCE: Final = 1 << 21


@dataclass(frozen=True)
class Repeats:
    """Where users come back to an article: a history holds only its latest view."""

    until_again: NDArray[np.int32]
    """int32[views]: how many views later the user views the same article again."""
    distinct: NDArray[np.int32]
    """int32[views]: the user's different articles up to and including this view."""


def find_repeats(article_ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> Repeats:
    """Look at users' views, oldest first; user u's are the places `offsets[u]:offsets[u + 1]`."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((article_ids, owners))
    earlier, later = order[:-1], order[1:]
    again = (owners[earlier] == owners[later]) & (article_ids[earlier] == article_ids[later])
    until_again = np.full(len(article_ids), _NEVER, np.int32)
    until_again[earlier[again]] = (later - earlier)[again]
    is_first = np.ones(len(article_ids), bool)
    is_first[later[again]] = False
    counts = np.concatenate([[0], np.cumsum(is_first)])
    distinct = (counts[1:] - counts[offsets[:-1]][owners]).astype(np.int32)
    return Repeats(until_again, distinct)


def history_windows(
    views: NDArray[Any],
    repeats: Repeats,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    padding: int,
) -> NDArray[Any]:
    """Gather, for each row, the articles of `views[begin:end]`, each at its latest view.

    Returns [rows, 50] of the dtype of `views`, newest first; shorter histories are padded on the
    right. `begins` are where users' views begin. Only rows that have repeats are looked at further
    back than 50 views, as far as it takes.
    """
    windows = np.full((len(ends), HISTORY_LENGTH), padding, views.dtype)
    rows, width = np.flatnonzero(ends > begins), HISTORY_LENGTH
    while len(rows):
        unfinished = []
        for chunk in np.array_split(rows, -(-len(rows) * width // _PLACES_AT_ONCE)):
            ages = np.arange(1, width + 1)
            places = np.maximum(ends[chunk, None] - ages, begins[chunk, None] - 1)
            is_latest = (places >= begins[chunk, None]) & (repeats.until_again[places] >= ages)
            rank = np.cumsum(is_latest, axis=1)
            row, column = np.nonzero(is_latest & (rank <= HISTORY_LENGTH))
            windows[chunk[row], rank[row, column] - 1] = views[places[row, column]]
            wanted = np.minimum(repeats.distinct[ends[chunk] - 1], HISTORY_LENGTH)
            unfinished.append(chunk[rank[:, -1] < wanted])
        rows, width = np.concatenate(unfinished), width * 2
    return windows
