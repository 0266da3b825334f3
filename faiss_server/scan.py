"""Exact search in small pieces, for whoever has time and must not take it from others."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex
from faiss_server.attributes import Matching

__all__ = ["scan"]


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
    bits = matching.bits_without(excluded)
    best, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for of_part, its_scores in index.parts(vector, k, bits):
        best, scores = np.concatenate([best, of_part]), np.concatenate([scores, its_scores])
        order = np.lexsort((best, -scores))[:k]
        best, scores = best[order], scores[order]
        yield best
