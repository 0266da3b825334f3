"""Ranks of test targets and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CUTOFFS", "MISSED", "RankingMetrics", "measure", "rank_targets", "top_columns"]

CUTOFFS: Final = (10, 50, 200)

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


def measure(
    ranks: NDArray[np.int64], answered: Iterable[NDArray[np.int64]], article_count: int
) -> RankingMetrics:
    """Average ranks into metrics; `answered` are the columns that `top_columns` gave."""
    gain = 1 / np.log2(ranks.astype(np.float64) + 1)
    covered: set[int] = set()
    for columns in answered:
        covered.update(columns.tolist())
    return RankingMetrics(
        hit_rate={k: float((ranks <= k).mean()) for k in CUTOFFS},
        ndcg={k: float(np.where(ranks <= k, gain, 0.0).mean()) for k in CUTOFFS},
        mrr=float(np.where(ranks == MISSED, 0.0, 1 / ranks).mean()),
        coverage=len(covered) / article_count,
    )
