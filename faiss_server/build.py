"""Building an IVF index whose number of probed lists is chosen by measured recall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss

__all__ = [
    "BuildError",
    "BuiltIndex",
    "build_index",
    "exact_top_k",
    "list_count",
    "search_file",
    "write_index",
]

_TRAINING_POINTS_PER_LIST: Final = 39  # faiss warns below it
_MOST_TRAINING_POINTS_PER_LIST: Final = 256  # faiss uses no more by default
_SCORED_AT_ONCE: Final = 64
_CONFIDENCE_ERRORS: Final = 2.0


class BuildError(ValueError):
    """The vectors, ids or queries cannot make an index; the message says which and why."""


@dataclass(frozen=True)
class BuiltIndex:
    """An inner-product IVF index with article ids of its own and nprobe already set."""

    index: Any
    type: str
    """faiss factory string, such as `IVF1024,Flat`."""
    lists: int
    nprobe: int
    recall_at_200: float
    """Mean over the held-out queries, against exact search, with that nprobe."""


def build_index(  # noqa: PLR0913 - the last six have defaults
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    queries: NDArray[np.float32],
    *,
    query_groups: int = 1,
    held_out: NDArray[np.float32] | None = None,
    recall_target: float = 0.99,
    k: int = 200,
    spare: int = 0,
    seed: int = 1,
) -> BuiltIndex:
    """Build `IVF{lists},Flat` over vectors [n, d] and choose nprobe on queries [q, d].

    The lists are trained on a uniform sample. nprobe is the smallest whose recall@(k + spare), less
    two standard errors, reaches the target in each of the equal `query_groups` that the queries
    consist of, one after another: a mean over all would let a hard group hide behind an easy one.
    `spare` is how many of the nearest articles a search may have to leave out, such as those
    already viewed: the k that follow must be found too. The recall that is stated was measured on
    `held_out` [h, d], which nprobe was not chosen on; without them it is that of the queries
    themselves. Raises BuildError.
    """
    held_out = queries if held_out is None else held_out
    _check(vectors, ids, recall_target, k)
    _check_queries("queries", queries, vectors)
    _check_queries("held_out", held_out, vectors)
    lists = list_count(len(vectors))
    index = _trained_index(vectors, lists, seed)
    index.add_with_ids(vectors, ids)
    exact = ids[exact_top_k(vectors, queries, min(k + spare, len(vectors)))]
    groups = list(zip(np.split(queries, query_groups), np.split(exact, query_groups), strict=True))
    nprobe = _choose_nprobe(index, groups, recall_target)
    nearest = ids[exact_top_k(vectors, held_out, min(k, len(vectors)))]
    recall = float(_recalls(index, held_out, nearest, nprobe).mean())
    index.nprobe = nprobe
    return BuiltIndex(index, f"IVF{lists},Flat", lists, nprobe, recall)


def write_index(built: BuiltIndex, path: Path) -> None:
    """Write the index to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    faiss.write_index(built.index, str(path))


def search_file(
    path: Path,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]] = (),
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Search a written index with its own nprobe; ids and scores [q, k], best first.

    `excluded`: for each query the ids to leave out, as the server does; an id of -1 fills up where
    there are no more.
    """
    index = faiss.read_index(str(path))
    k = min(k, index.ntotal)
    if not excluded:
        scores, ids = index.search(queries, k)
        return ids, scores
    found = [
        _search_without(index, query[None], k, left_out)
        for query, left_out in zip(queries, excluded, strict=True)
    ]
    return np.concatenate([ids for ids, _ in found]), np.concatenate([s for _, s in found])


def _search_without(
    index: Any, query: NDArray[np.float32], k: int, excluded: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Look into all lists where those that are probed hold too few others, as the server does."""
    allowed = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded))
    for nprobe in (index.nprobe, index.nlist):
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=allowed)
        scores, ids = index.search(query, k, params=parameters)
        if ids[0, -1] >= 0:
            break
    return ids, scores


def list_count(vector_count: int) -> int:
    """About four times the square root, with at least 39 training points for each list."""
    wanted = round(4 * math.sqrt(vector_count))
    return max(1, min(wanted, vector_count // _TRAINING_POINTS_PER_LIST))


def exact_top_k(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Find the rows with the k largest inner products by brute force, best first, [q, k]."""
    found = np.empty((len(queries), k), np.int64)
    for begin in range(0, len(queries), _SCORED_AT_ONCE):
        scores = queries[begin : begin + _SCORED_AT_ONCE] @ vectors.T
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        found[begin : begin + len(scores)] = np.take_along_axis(top, order, axis=1)
    return found


def _trained_index(vectors: NDArray[np.float32], lists: int, seed: int) -> Any:
    dimension = vectors.shape[1]
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    size = min(len(vectors), lists * _MOST_TRAINING_POINTS_PER_LIST)
    # The first rows are the most viewed articles: they would not stand for the rest.
    sample = np.random.default_rng(seed).choice(len(vectors), size=size, replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    return index


def _choose_nprobe(
    index: Any, groups: list[tuple[NDArray[np.float32], NDArray[np.int64]]], target: float
) -> int:
    """Bisect: recall does not fall when more lists are probed."""
    low, high = 1, index.nlist
    while low < high:
        middle = (low + high) // 2
        recalls = (_recalls(index, queries, exact, middle) for queries, exact in groups)
        if all(_lower_bound(each) >= target for each in recalls):
            high = middle
        else:
            low = middle + 1
    return low


def _recalls(
    index: Any, queries: NDArray[np.float32], exact: NDArray[np.int64], nprobe: int
) -> NDArray[np.float64]:
    parameters = faiss.SearchParametersIVF(nprobe=nprobe)
    _, found = index.search(queries, exact.shape[1], params=parameters)
    shares = [
        len(np.intersect1d(row, wanted)) / len(wanted)
        for row, wanted in zip(found, exact, strict=True)
    ]
    return np.array(shares)


def _lower_bound(recalls: NDArray[np.float64]) -> float:
    error = recalls.std(ddof=1) / math.sqrt(len(recalls)) if len(recalls) > 1 else 0.0
    return float(recalls.mean() - _CONFIDENCE_ERRORS * error)


def _check(
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    recall_target: float,
    k: int,
) -> None:
    _check_matrix("vectors", vectors)
    if ids.dtype != np.int64 or ids.shape != (len(vectors),):
        raise BuildError(
            f"ids must be int64[{len(vectors)}], one for each vector; "
            f"they are {ids.dtype}{list(ids.shape)}"
        )
    if (ids < 0).any():
        raise BuildError(f"ids must be 0 or more; row {int(np.argmax(ids < 0))} is {ids.min()}")
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) != len(ids):
        raise BuildError(f"id {distinct[counts > 1][0]} is given to more than one vector")
    if not 0 < recall_target <= 1:
        raise BuildError(f"recall_target must be above 0 and at most 1; it is {recall_target}")
    if k < 1:
        raise BuildError(f"k must be at least 1; it is {k}")


def _check_queries(name: str, queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> None:
    _check_matrix(name, queries)
    if queries.shape[1] != vectors.shape[1]:
        raise BuildError(f"{name} have dimension {queries.shape[1]}, vectors {vectors.shape[1]}")


def _check_matrix(name: str, rows: NDArray[np.float32]) -> None:
    if rows.dtype != np.float32 or rows.ndim != 2 or 0 in rows.shape:
        raise BuildError(
            f"{name} must be float32[rows, dimension] with at least one row; "
            f"they are {rows.dtype}{list(rows.shape)}"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise BuildError(f"{name}: row {int(np.argmin(finite))} holds NaN or infinity")
