"""How the rankings of two releases differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Comparison", "Overlap", "compare", "overlap_at"]

_DEPTHS: Final = (1, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True)
class Overlap:
    """The share of articles that the first `depth` places of both rankings have in common."""

    depth: int
    shared: int
    share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of each article from the first ranking to the second."""

    overlaps: tuple[Overlap, ...]
    rises: tuple[int | None, ...]
    """For each article of the second ranking: the places it gained (negative: lost); None: new."""
    gone: tuple[bool, ...]
    """For each article of the first ranking: whether the second is without it."""

    @property
    def new_count(self) -> int:
        """How many articles only the second ranking has."""
        return sum(rise is None for rise in self.rises)

    @property
    def gone_count(self) -> int:
        """How many articles only the first ranking has."""
        return sum(self.gone)

    @property
    def mean_move(self) -> float | None:
        """How many places the articles of both moved on average; None where there are none."""
        moves = [abs(rise) for rise in self.rises if rise is not None]
        return sum(moves) / len(moves) if moves else None


def compare(first: Sequence[int], second: Sequence[int]) -> Comparison:
    """Compare two rankings of distinct article ids, best first."""
    before = {article: rank for rank, article in enumerate(first)}
    kept = set(second)
    longest = max(len(first), len(second))
    depths = [depth for depth in _DEPTHS if depth < longest] + ([longest] if longest else [])
    return Comparison(
        overlaps=tuple(overlap_at(first, second, depth) for depth in depths),
        rises=tuple(
            before[article] - rank if article in before else None
            for rank, article in enumerate(second)
        ),
        gone=tuple(article not in kept for article in first),
    )


def overlap_at(first: Sequence[int], second: Sequence[int], depth: int) -> Overlap:
    """Compare the first `depth` places, at least 1.

    The share is of as many places as the longer of the two has there: what one list lacks the
    other does not share.
    """
    shared = len(set(first[:depth]) & set(second[:depth]))
    places = min(depth, max(len(first), len(second)))
    return Overlap(depth, shared, shared / places if places else 1.0)
