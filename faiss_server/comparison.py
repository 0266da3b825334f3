"""How much two releases agree, asked without a model.

User vectors of one release mean nothing in another. What does is an article's neighbours: each of
a sample of common articles is looked up in both, with its own vector there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex

__all__ = ["Comparison", "compare_indexes"]


@dataclass(frozen=True)
class Comparison:
    """Counts of articles, and the shares of neighbours that both name."""

    common: int
    only_first: int
    only_second: int
    overlaps: NDArray[np.float64]
    """float64[sampled articles]: share of the k nearest, among common articles only."""


def compare_indexes(
    first: ArticleIndex,
    second: ArticleIndex,
    nprobes: tuple[int, int],
    *,
    k: int,
    sample: int,
    seed: int = 1,
) -> Comparison:
    """Compare the k nearest articles of up to `sample` common ones."""
    common = np.intersect1d(first.article_ids, second.article_ids, assume_unique=True)
    random = np.random.default_rng(seed)
    asked = np.sort(random.choice(common, min(sample, common.size), replace=False))
    neighbours = [
        _neighbours(index, asked, nprobe, k, common)
        for index, nprobe in zip((first, second), nprobes, strict=True)
    ]
    overlaps = [
        np.intersect1d(one, other).size / max(one.size, other.size, 1)
        for one, other in zip(*neighbours, strict=True)
    ]
    return Comparison(
        common.size, len(first) - common.size, len(second) - common.size, np.array(overlaps)
    )


def _neighbours(
    index: ArticleIndex,
    asked: NDArray[np.int64],
    nprobe: int,
    k: int,
    common: NDArray[np.int64],
) -> list[NDArray[np.int64]]:
    if not asked.size:
        return []
    vectors = index.vectors_at(index.positions_of(asked))
    positions, _ = index.nearest(vectors, min(k + 1, len(index)), nprobe)
    return [
        found[np.isin(found, common) & (found != own)][:k]
        for own, row in zip(asked, positions, strict=True)
        for found in (index.article_ids[row[row >= 0]],)
    ]
