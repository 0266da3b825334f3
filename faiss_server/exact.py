"""Exact search by brute force, which everything else is measured against."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss

__all__ = ["exact_top_k"]

_VECTORS_AT_ONCE: Final = 1 << 18
_QUERIES_AT_ONCE: Final = 256


def exact_top_k(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Find the rows with the k largest inner products, best first, equal ones by row: int64[q, k].

    `vectors` [n, d] may be mapped from a file: a part is read at a time. k is at most n.
    """
    parts = [
        _top_of_all(vectors, queries[begin : begin + _QUERIES_AT_ONCE], k)
        for begin in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty((0, k), np.int64)


def _top_of_all(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    best_scores = np.empty((len(queries), 0), np.float32)
    best_rows = np.empty((len(queries), 0), np.int64)
    queries = np.ascontiguousarray(queries)
    for begin in range(0, len(vectors), _VECTORS_AT_ONCE):
        part = np.ascontiguousarray(vectors[begin : begin + _VECTORS_AT_ONCE])
        scores, rows = faiss.knn(
            queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([best_scores, scores], axis=1)
        rows = np.concatenate([best_rows, rows + begin], axis=1)
        order = np.lexsort((rows, -scores), axis=-1)[:, :k]
        best_scores = np.take_along_axis(scores, order, axis=1)
        best_rows = np.take_along_axis(rows, order, axis=1)
    return best_rows
