"""Means over questions with their confidence intervals."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
    """Average ranks int64[questions] into HR@k, NDCG@k and MRR@k, each in 0..1.

    With one target HR@k, also called recall@k and P@k, is the share of ranks up to k; NDCG@k is
    the mean of 1 / log2(rank + 1) and MRR@k that of 1 / rank, both 0 beyond k.
    """
    exact = ranks.astype(np.float64)
    gains = {"HR": np.ones(len(ranks)), "NDCG": 1 / np.log2(exact + 1), "MRR": 1 / exact}
    return {
        f"{name}@{k}": estimate(np.where(ranks <= k, gain, 0.0), users)
        for name, gain in gains.items()
        for k in cutoffs
    }
