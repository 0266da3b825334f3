"""The smallest effort that finds what is to be found."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.peers.systems import Effort

__all__ = ["TARGET", "Tried", "Tuned", "recalls", "tune"]

TARGET: Final = 0.99
_CONFIDENCE_ERRORS: Final = 2.0
_STEP: Final = 2
"""By which the effort grows until it suffices."""


@dataclass(frozen=True)
class Tried:
    """One effort: the recall of each query, and the median milliseconds of a question."""

    recalls: NDArray[np.float64]
    median_ms: float

    @property
    def suffices(self) -> bool:
        """Whether the mean recall, less two standard errors, reaches the target.

        The mean itself would be missed on every other set of queries.
        """
        count = len(self.recalls)
        error = self.recalls.std(ddof=1) / math.sqrt(count) if count > 1 else 0.0
        return float(self.recalls.mean() - _CONFIDENCE_ERRORS * error) >= TARGET


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and all that was tried."""

    effort: int
    suffices: bool
    """False: not even the most that the system takes is enough; it is what is chosen."""
    tried: Mapping[int, Tried]


def tune(effort: Effort, attempt: Callable[[int], Tried]) -> Tuned:
    """Double the effort until it suffices, then bisect: recall does not fall when it grows."""
    tried: dict[int, Tried] = {}

    def suffices(number: int) -> bool:
        if number not in tried:
            tried[number] = attempt(number)
        return tried[number].suffices

    low, high = effort.least, effort.least
    while not suffices(high):
        if high == effort.most:
            return Tuned(high, suffices=False, tried=tried)
        low, high = high + 1, min(high * _STEP, effort.most)
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    return Tuned(high, suffices=True, tried=tried)


def recalls(found: NDArray[np.int64], nearest: NDArray[np.int64]) -> NDArray[np.float64]:
    """Answer the share of the nearest ids [queries, k] that each query found; -1 is no id."""
    pairs = zip(found, nearest, strict=True)
    return np.array([len(np.intersect1d(row, wanted)) / len(wanted) for row, wanted in pairs])
