"""Building an IVF index whose effort of search is chosen by measured recall."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from faiss_server.build_errors import BuildError
from faiss_server.errors import ReleaseRefusedError
from faiss_server.exact import exact_top_k
from faiss_server.index_kind import IndexKind, UnservedKindError
from faiss_server.index_layout import kinds_of, read_layout
from faiss_server.spec import AUTO, list_count, resolve_spec
from faiss_server.tuning import Effort, Tuned, Wanted, choose_effort, measure_curve, recalls
from faiss_server.two_levels import centres_in_two_levels
from releases._atomic import partial_name
from releases.manifest import IndexInfo

__all__ = [
    "BuildError",
    "BuiltIndex",
    "Goal",
    "OnProgress",
    "build_index",
    "check_spec",
    "exact_top_k",
    "list_count",
    "search_file",
    "tune_index",
    "write_index",
]

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

_MOST_TRAINING_POINTS_PER_LIST: Final = 256  # faiss uses no more by default
_LEAST_TRAINING_POINTS_PER_LIST: Final = 39  # faiss warns below it
_TRAINING_POINTS: Final = 1 << 19
"""Above 2,000 lists each gets fewer: k-means takes as long as points times lists."""
_PROBED_TO_ASSIGN: Final = 8
"""Lists of centres that are looked through for an article's own."""
_ADDED_AT_ONCE: Final = 1 << 17
_CHECKED_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True)
class BuiltIndex:
    """An inner-product IVF index with article ids of its own; nprobe and factor already set."""

    index: Any
    info: IndexInfo
    """What the manifest says of it."""


@dataclass(frozen=True)
class Goal:
    """What a search shall find.

    The queries [q, d] consist of equal `groups`, one after another, and each has to reach the
    recall: a mean over all would let a hard group hide behind an easy one. `spare` is how many of
    the nearest articles a search may have to leave out, such as those already viewed: the k that
    follow must be found too. `held_out` [h, d] are the queries on which the stated recall and the
    curve are measured; without them, those it was chosen on.
    """

    queries: NDArray[np.float32]
    held_out: NDArray[np.float32]
    groups: int = 1
    recall: float = 0.99
    k: int = 200
    spare: int = 0


def _ignore_progress(_stage: str, _done: int, _total: int) -> None:
    pass


def build_index(  # noqa: PLR0913 - those after the star have defaults
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
    spec: str = AUTO,
    memory_bytes: int | None = None,
    on_progress: OnProgress = _ignore_progress,
) -> BuiltIndex:
    """Build an index over vectors [n, d], which may be mapped from a file, and tune it.

    `spec` is a faiss factory string or `auto` (`faiss_server.spec`). The lists are trained on a
    uniform sample. The same arguments make the same index, bit for bit, on the same machine with
    the same number of threads; the curve's times differ. The others are those of `Goal`. Raises
    BuildError.
    """
    held_out = queries if held_out is None else held_out
    goal = Goal(queries, held_out, query_groups, recall_target, k, spare)
    _check(vectors, ids, goal)
    factory = resolve_spec(spec, len(vectors), vectors.shape[1], memory_bytes)
    index = _trained_index(vectors, factory, seed, on_progress)
    _add(index, vectors, ids, on_progress)
    if (reached := IndexKind.of(index).reached()) != len(ids):
        raise BuildError(
            f"spec {factory!r}: a search of all lists reaches {reached} of {len(ids)} articles: "
            "its coarse quantizer loses lists; take `IVFn(IVFm,Flat)` or none"
        )
    kind = IndexKind.of(index)
    return BuiltIndex(index, _tune(kind, vectors, ids, goal, on_progress).info(factory, kind.lists))


def check_spec(spec: str, dimension: int) -> None:
    """Refuse a spec that `build_index` would refuse for vectors of this dimension; BuildError."""
    if spec != AUTO:
        _empty_index(dimension, resolve_spec(spec, 0, dimension))


def tune_index(
    index: Any,
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    goal: Goal,
    on_progress: OnProgress = _ignore_progress,
) -> Tuned:
    """Choose anew how an index of these vectors is searched, and set it; raises BuildError."""
    _check(vectors, ids, goal)
    if index.ntotal != len(vectors) or index.d != vectors.shape[1]:
        raise BuildError(
            f"the index has {index.ntotal} articles of {index.d} values, the vectors are "
            f"{list(vectors.shape)}"
        )
    try:
        kind = IndexKind.of(index)
    except UnservedKindError as error:
        raise BuildError(str(error)) from None
    missing = np.setdiff1d(ids, kind.article_ids())
    if missing.size:
        raise BuildError(
            f"the index lacks {missing.size} of the {len(ids)} ids, such as {missing[0]}: give the "
            "ids that it was built with"
        )
    return _tune(kind, vectors, ids, goal, on_progress)


def write_index(built: BuiltIndex, path: Path) -> None:
    """Write the index to a file, in the place of an older one once it is whole.

    Raises BuildError, and changes nothing, where the disk or every server would refuse it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        faiss.write_index(built.index, str(partial))
        read_layout(partial)
        partial.replace(path)
    except RuntimeError as error:
        raise BuildError(f"{path}: cannot be written: {_what_faiss_says(error)}") from None
    except ReleaseRefusedError as error:
        raise BuildError(f"spec {built.info.type!r}: servers would refuse it: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


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
    kind = IndexKind.of(faiss.read_index(str(path)))
    k = min(k, kind.index.ntotal)
    if not excluded:
        return kind.search(queries, k, kind.default_nprobe, kind.default_refine_factor)
    found = [
        _search_without(kind, query[None], k, left_out)
        for query, left_out in zip(queries, excluded, strict=True)
    ]
    return np.stack([ids for ids, _ in found]), np.stack([scores for _, scores in found])


def _search_without(
    kind: IndexKind, query: NDArray[np.float32], k: int, excluded: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Look into all lists where those that are probed hold too few others, as the server does."""
    wanted = min(k + excluded.size, kind.index.ntotal)
    for nprobe in (kind.default_nprobe, kind.lists):
        ids, scores = kind.search(query, wanted, nprobe, kind.default_refine_factor)
        kept = np.flatnonzero((ids[0] >= 0) & ~np.isin(ids[0], excluded))[:k]
        if kept.size == k:
            break
    lacking = (0, k - kept.size)
    return (
        np.pad(ids[0, kept], lacking, constant_values=-1),
        np.pad(scores[0, kept], lacking, constant_values=-np.inf),
    )


def _trained_index(
    vectors: NDArray[np.float32], factory: str, seed: int, on_progress: OnProgress
) -> Any:
    """Make an empty index that takes article ids, its lists trained."""
    index = _empty_index(vectors.shape[1], factory)
    kind = IndexKind.of(index)
    sample = _training_sample(vectors, kind.lists, seed)
    on_progress("train", 0, len(sample))
    kind.ivf.cp.seed = seed
    if isinstance(faiss.downcast_index(kind.ivf.quantizer), faiss.IndexFlat):
        kind.searched.train(sample)
    else:
        _train_in_two_levels(kind, sample, seed)
    on_progress("train", len(sample), len(sample))
    return index


def _empty_index(dimension: int, factory: str) -> Any:
    """Make an index that takes article ids and can be served, not trained yet."""
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if not isinstance(index, faiss.IndexIVF):
            index = _with_id_map(index)
        IndexKind.of(index)
        kinds_of(factory)
    except (RuntimeError, ValueError) as error:
        raise BuildError(f"spec {factory!r}: {_what_faiss_says(error)}") from None
    return index


def _what_faiss_says(error: Exception) -> str:
    """Leave out where in its source it says it."""
    return re.sub(r".*\.(cpp|h):\d+: ", "", str(error), flags=re.DOTALL)


def _with_id_map(index: Any) -> Any:
    """Put a table of ids around an index that numbers its articles."""
    mapped = faiss.IndexIDMap(index)
    index.this.disown()
    mapped.own_fields = True
    return mapped


def _training_sample(vectors: NDArray[np.float32], lists: int, seed: int) -> NDArray[np.float32]:
    """Take rows from everywhere: the first ones are the most viewed articles."""
    of_each = min(
        _MOST_TRAINING_POINTS_PER_LIST,
        max(_LEAST_TRAINING_POINTS_PER_LIST, _TRAINING_POINTS // lists),
    )
    if len(vectors) < lists:
        raise BuildError(
            f"{len(vectors)} vectors cannot fill {lists} lists; name fewer in the spec"
        )
    size = min(len(vectors), lists * of_each)
    sample = np.random.default_rng(seed).choice(len(vectors), size=size, replace=False)
    return np.ascontiguousarray(vectors[np.sort(sample)])


def _train_in_two_levels(kind: IndexKind, sample: NDArray[np.float32], seed: int) -> None:
    """Find the centres, and have their quantizer find them; then train the codes."""
    centres = centres_in_two_levels(_as_in_the_lists(kind, sample), kind.lists, seed)
    quantizer = faiss.downcast_index(kind.ivf.quantizer)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    quantizer.nprobe = min(quantizer.nlist, _PROBED_TO_ASSIGN)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # so that their number changes nothing here
    try:
        quantizer.train(centres)
        quantizer.add(centres)
        quantizer.make_direct_map()  # codes of what is left after a centre need it
    finally:
        faiss.omp_set_num_threads(threads)
    kind.searched.train(sample)


def _as_in_the_lists(kind: IndexKind, sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """Train the rotation, if there is one; answer the sample as the lists get it."""
    if not kind.is_rotated:
        return sample
    chain = kind.rotated.chain
    for number in range(chain.size()):
        step = faiss.downcast_VectorTransform(chain.at(number))
        step.train(sample)
        sample = step.apply(sample)
    return sample


def _add(
    index: Any, vectors: NDArray[np.float32], ids: NDArray[np.int64], on_progress: OnProgress
) -> None:
    """Add in order of id, a part at a time: an article's number is then its place by id."""
    order = None if (ids[1:] > ids[:-1]).all() else np.argsort(ids)
    for begin in range(0, len(ids), _ADDED_AT_ONCE):
        part = slice(begin, begin + _ADDED_AT_ONCE)
        rows = part if order is None else order[part]
        index.add_with_ids(np.ascontiguousarray(vectors[rows]), np.ascontiguousarray(ids[rows]))
        on_progress("add", index.ntotal, len(ids))


def _tune(
    kind: IndexKind,
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    goal: Goal,
    on_progress: OnProgress,
) -> Tuned:
    steps = 4
    on_progress("tune", 0, steps)
    exact = ids[exact_top_k(vectors, goal.queries, min(goal.k + goal.spare, len(vectors)))]
    parts = zip(np.split(goal.queries, goal.groups), np.split(exact, goal.groups), strict=True)
    groups = [Wanted(*part) for part in parts]
    on_progress("tune", 1, steps)
    effort: Effort = choose_effort(kind, groups, goal.recall)
    on_progress("tune", 2, steps)
    nearest = ids[exact_top_k(vectors, goal.held_out, min(goal.k, len(vectors)))]
    held_out = Wanted(goal.held_out, nearest)
    recall = float(recalls(kind, held_out, effort).mean())
    on_progress("tune", 3, steps)
    curve = measure_curve(kind, held_out, effort)
    kind.set_defaults(effort.nprobe, effort.refine_factor)
    on_progress("tune", steps, steps)
    return Tuned(effort, recall, curve)


def _check(vectors: NDArray[np.float32], ids: NDArray[np.int64], goal: Goal) -> None:
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
    if not 0 < goal.recall <= 1:
        raise BuildError(f"recall_target must be above 0 and at most 1; it is {goal.recall}")
    if goal.k < 1:
        raise BuildError(f"k must be at least 1; it is {goal.k}")
    _check_queries("queries", goal.queries, vectors)
    _check_queries("held_out", goal.held_out, vectors)


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
    for begin in range(0, len(rows), _CHECKED_AT_ONCE):
        finite = np.isfinite(rows[begin : begin + _CHECKED_AT_ONCE]).all(axis=1)
        if not finite.all():
            raise BuildError(f"{name}: row {begin + int(np.argmin(finite))} holds NaN or infinity")
