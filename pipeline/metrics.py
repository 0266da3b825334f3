"""Ranks of test targets and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ANSWERED",
    "CUTOFFS",
    "MISSED",
    "RankingMetrics",
    "measure",
    "rank_targets",
    "top_columns",
    "worth",
]

ANSWERED: Final = 200
"""Articles of an answer: what coverage is counted on, and a hit is one of."""

CUTOFFS: Final = (10, 50, ANSWERED)

MISSED: Final = np.iinfo(np.int64).max
"""The rank of a target that cannot be answered at all."""


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the test users; each in 0..1."""

    hit_rate: dict[int, float]
    """HR@k: share of users whose target is among the k best."""
    ndcg: dict[int, float]
    """NDCG@k; with one target 1 / log2(rank + 1) if rank <= k, else 0."""
    mrr: float
    """Mean of 1 / rank, over the whole ranking."""
    coverage: float
    """Share of the catalogue that is among the 200 best of any user."""


def rank_targets(
    scores: NDArray[np.floating[Any]], targets: NDArray[np.int64], seen: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Rank each row's target column, 1 is best, among the columns not `seen`; [rows].

    A tie counts against the target. A target of -1, or one that is itself seen, is `MISSED`.
    """
    rows = np.arange(len(targets))
    column = np.maximum(targets, 0)
    own = scores[rows, column]
    rivals = (scores >= own[:, None]) & ~seen
    rivals[rows, column] = False
    answerable = (targets >= 0) & ~seen[rows, column]
    return np.where(answerable, rivals.sum(axis=1) + 1, MISSED)


def top_columns(
    scores: NDArray[np.floating[Any]], seen: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    """List the distinct columns that are among the k best unseen ones of any row."""
    masked = np.where(seen, -np.inf, scores)
    k = min(k, masked.shape[1])
    top = np.argpartition(-masked, k - 1, axis=1)[:, :k]
    return np.unique(top[np.take_along_axis(~seen, top, axis=1)])


def worth(ranks: NDArray[np.int64], cutoff: int) -> dict[str, NDArray[np.float64]]:
    """Say what each of the ranks int64[n] adds to HR, NDCG and MRR, each in 0..1.

    With one target that is 1, 1 / log2(rank + 1) and 1 / rank; all are 0 beyond the cutoff.
    """
    exact, counts = ranks.astype(np.float64), ranks <= cutoff
    gains = {"HR": np.ones(len(ranks)), "NDCG": 1 / np.log2(exact + 1), "MRR": 1 / exact}
    return {name: np.where(counts, gain, 0.0) for name, gain in gains.items()}


def measure(
    ranks: NDArray[np.int64], answered: Iterable[NDArray[np.int64]], article_count: int
) -> RankingMetrics:
    """Average ranks into metrics; `answered` are the columns that `top_columns` gave."""
    found = {k: worth(ranks, k) for k in (*CUTOFFS, MISSED - 1)}
    covered: set[int] = set()
    for columns in answered:
        covered.update(columns.tolist())
    return RankingMetrics(
        hit_rate={k: float(found[k]["HR"].mean()) for k in CUTOFFS},
        ndcg={k: float(found[k]["NDCG"].mean()) for k in CUTOFFS},
        mrr=float(found[MISSED - 1]["MRR"].mean()),
        coverage=len(covered) / article_count,
    )
