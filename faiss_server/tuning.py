"""Choosing how much of an index a search looks at, by measured recall.

Two numbers decide: how many lists are probed and, where finer vectors lie beside the codes, how
many times k articles are scored by them. They are chosen by recall alone, so the same index and
queries always give the same; what that takes is measured afterwards.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from faiss_server.build_errors import BuildError
from faiss_server.index_kind import IndexKind
from releases.manifest import CurvePoint, IndexInfo

__all__ = ["Effort", "Tuned", "Wanted", "choose_effort", "measure_curve", "recalls"]

_CONFIDENCE_ERRORS: Final = 2.0
_REFINE_FACTORS: Final = (1.0, 1.5, 2.0, 4.0, 8.0)
_CODES_PER_REFINED: Final = 16
"""Scoring one article by its finer vector, which lies anywhere in memory, takes about as long as
scoring so many codes in a row."""
_CODES_IN_BLOCKS_PER_REFINED: Final = 64
"""The same where codes are scored many at once."""
_DEAR: Final = 4
_MOST_TIMED: Final = 256
_FAR_BEYOND: Final = 8
"""The curve ends at so many times the nprobe that was chosen."""
_NEARLY_ALL: Final = 0.9999


@dataclass(frozen=True, slots=True)
class Effort:
    """How much one search looks at."""

    nprobe: int
    refine_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Queries float32[q, d] and the ids that exact search finds for them, int64[q, k]."""

    queries: NDArray[np.float32]
    exact: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was chosen, its recall on queries that it was not chosen on, and what more would do."""

    effort: Effort
    recall: float
    curve: tuple[CurvePoint, ...]

    def info(self, factory: str, lists: int) -> IndexInfo:
        """Answer what the manifest says of an index of this factory string."""
        return IndexInfo(
            type=factory,
            lists=lists,
            nprobe=self.effort.nprobe,
            recall_at_200=self.recall,
            refine_factor=self.effort.refine_factor,
            curve=self.curve,
        )


def choose_effort(kind: IndexKind, groups: Sequence[Wanted], target: float) -> Effort:
    """Choose the smallest nprobe, and the refine factor with which a search costs least.

    Each group's recall, less two standard errors, reaches the target. Raises BuildError when codes
    are so coarse that not even all lists give it.
    """
    factors = _REFINE_FACTORS if kind.is_refined else (1.0,)
    efforts: list[Effort] = []
    most_lists = kind.lists
    for factor in reversed(factors):
        nprobe = _smallest_nprobe(kind, groups, target, factor, most_lists)
        if nprobe is None:
            break  # with less refining even more would be missing
        efforts.append(Effort(nprobe, factor))
        # What less refining needs beyond this costs more than it saves.
        most_lists = min(kind.lists, nprobe * _DEAR)
    if not efforts:
        most = Effort(kind.lists, factors[-1])
        # With true vectors all lists give everything; ids of equal scores may still differ.
        if isinstance(kind.ivf, faiss.IndexIVFFlat):
            return most
        found = min(_lower_bound(recalls(kind, group, most)) for group in groups)
        raise BuildError(
            f"a recall of {target:g} is not reached: all lists together give {found:.4f} for sure; "
            "ask for less, or take finer codes (`SQfp16`, `Flat`) or true vectors beside them "
            "(`,RFlat`)"
        )
    k = groups[0].exact.shape[1]
    return min(efforts, key=lambda effort: _cost(kind, effort, k))


def recalls(kind: IndexKind, wanted: Wanted, effort: Effort) -> NDArray[np.float64]:
    """Answer the share of the exact ids found for each query, float64[q]."""
    found, _ = kind.search(
        wanted.queries, wanted.exact.shape[1], effort.nprobe, effort.refine_factor
    )
    return _shares(found, wanted.exact)


def measure_curve(kind: IndexKind, wanted: Wanted, chosen: Effort) -> tuple[CurvePoint, ...]:
    """Search one query at a time, in one thread, with ever more lists; recall and time of each.

    Goes on until nearly everything is found, or far beyond what was chosen.
    """
    few = Wanted(wanted.queries[:_MOST_TIMED], wanted.exact[:_MOST_TIMED])
    factors = _REFINE_FACTORS if kind.is_refined else (1.0,)
    with _one_thread():
        return tuple(
            point
            for factor in factors
            for point in _curve_of(kind, few, _ladder(kind.lists, chosen.nprobe), factor)
        )


def _curve_of(
    kind: IndexKind, wanted: Wanted, nprobes: Iterable[int], factor: float
) -> Iterator[CurvePoint]:
    for nprobe in nprobes:
        point = _measured(kind, wanted, Effort(nprobe, factor))
        yield point
        if point.recall_at_200 >= _NEARLY_ALL:
            return


def _measured(kind: IndexKind, wanted: Wanted, effort: Effort) -> CurvePoint:
    k = wanted.exact.shape[1]
    found, seconds = np.empty_like(wanted.exact), np.empty(len(wanted.queries))
    for number in range(len(wanted.queries)):
        query = wanted.queries[number : number + 1]
        started = time.perf_counter()
        found[number], _ = kind.search(query, k, effort.nprobe, effort.refine_factor)
        seconds[number] = time.perf_counter() - started
    p50, p99 = np.percentile(seconds * 1000, [50, 99])
    return CurvePoint(
        nprobe=effort.nprobe,
        refine_factor=effort.refine_factor,
        recall_at_200=float(_shares(found, wanted.exact).mean()),
        p50_ms=round(float(p50), 4),
        p99_ms=round(float(p99), 4),
    )


def _ladder(lists: int, chosen: int) -> list[int]:
    """Powers of two, the chosen one, and the end."""
    last = min(lists, chosen * _FAR_BEYOND)
    steps = {1 << power for power in range(last.bit_length()) if 1 << power <= last}
    return sorted(steps | {chosen, last})


def _smallest_nprobe(
    kind: IndexKind, groups: Sequence[Wanted], target: float, factor: float, most: int
) -> int | None:
    """Bisect: recall does not fall when more lists are probed. None: `most` lists do not do."""

    def reaches(nprobe: int) -> bool:
        effort = Effort(nprobe, factor)
        return all(_lower_bound(recalls(kind, group, effort)) >= target for group in groups)

    # From below: few lists usually do, and searching all of them takes longest.
    low, high = 1, 1
    while not reaches(high):
        if high == most:
            return None
        low, high = high + 1, min(most, high * 2)
    while low < high:
        middle = (low + high) // 2
        if reaches(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _cost(kind: IndexKind, effort: Effort, k: int) -> float:
    scanned = effort.nprobe * kind.ivf.ntotal / kind.lists
    per_refined = _CODES_IN_BLOCKS_PER_REFINED if kind.is_fast_scan else _CODES_PER_REFINED
    refined = k * effort.refine_factor * per_refined if kind.is_refined else 0.0
    return float(scanned + refined)


def _shares(found: NDArray[np.int64], exact: NDArray[np.int64]) -> NDArray[np.float64]:
    shares = [
        len(np.intersect1d(row, wanted)) / len(wanted)
        for row, wanted in zip(found, exact, strict=True)
    ]
    return np.array(shares)


def _lower_bound(shares: NDArray[np.float64]) -> float:
    error = shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return float(shares.mean() - _CONFIDENCE_ERRORS * error)


@contextmanager
def _one_thread() -> Iterator[None]:
    before: Any = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
