"""Means over questions with their confidence intervals."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import worth

__all__ = ["Estimate", "at_cutoffs", "estimate"]

_NORMAL_95: Final = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean, and half the width of its 95 % confidence interval."""

    value: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.half_width:.4f}"


def estimate(values: NDArray[np.float64], users: NDArray[np.int64]) -> Estimate:
    """Average values [questions]; those of one user are one draw, however many they are.

    The variance is that of a ratio of sums over users (Cochran, Sampling Techniques, 6.3).
    """
    mean = float(values.mean())
    _, owner = np.unique(users, return_inverse=True)
    residuals = np.bincount(owner, values - mean)
    error = float(np.sqrt((residuals**2).sum())) / len(values)
    return Estimate(mean, _NORMAL_95 * error)


def at_cutoffs(
    ranks: NDArray[np.int64], users: NDArray[np.int64], cutoffs: Iterable[int]
) -> dict[str, Estimate]:
    """Average ranks int64[questions] into HR@k (also called recall@k and P@k), NDCG@k and MRR@k."""
    found = {k: worth(ranks, k) for k in cutoffs}
    return {
        f"{name}@{k}": estimate(found[k][name], users)
        for name in ("HR", "NDCG", "MRR")
        for k in found
    }
