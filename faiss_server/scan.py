"""Exact search in small pieces, for whoever has time and must not take it from others."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex
from faiss_server.attributes import Matching

__all__ = ["scan"]

_AT_ONCE: Final = 16_384
"""About a millisecond's work."""


def scan(
    index: ArticleIndex,
    matching: Matching,
    vector: NDArray[np.float32],
    k: int,
    excluded: NDArray[np.int64],
) -> Iterator[NDArray[np.int64]]:
    """Score all matching articles but those at the `excluded` positions, a part at a time.

    Yields the best positions so far, int64[<= k], after each part; the last are exact for the
    vectors as they are stored. `vector` is float32[dimension].
    """
    best, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for begin in range(0, len(index), _AT_ONCE):
        part = matching.among(np.arange(begin, min(begin + _AT_ONCE, len(index))))
        part = part[~np.isin(part, excluded)]
        if part.size:
            best = np.concatenate([best, part])
            scores = np.concatenate([scores, index.vectors_at(part) @ vector])
            order = np.argsort(-scores, kind="stable")[:k]
            best, scores = best[order], scores[order]
        yield best
