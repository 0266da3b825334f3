"""Targets ranked among the whole catalogue, as many questions at once as memory allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import ANSWERED, RankingMetrics, measure, rank_targets, top_columns

__all__ = ["Ranked", "Scorer", "rank_all"]

_SCORES_AT_ONCE: Final = 10_000_000


class Scorer(Protocol):
    """Whatever gives each article a number for some of those who ask."""

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        """Score all articles of the catalogue, [users, articles]."""


@dataclass(frozen=True)
class Ranked:
    """How one scorer ranks the targets."""

    ranks: NDArray[np.int64]
    answered: list[NDArray[np.int64]]
    article_count: int

    def metrics(self) -> RankingMetrics:
        """Average them."""
        return measure(self.ranks, self.answered, self.article_count)


def rank_all(
    scorer: Scorer,
    users: NDArray[np.int64],
    columns: NDArray[np.int64],
    seen_of: Callable[[int], NDArray[Any]],
    article_count: int,
    *,
    with_answers: bool = True,
) -> Ranked:
    """Rank the target of each of those who ask, int64[users], among all articles.

    `columns` int64[users] are the targets' places in the catalogue, -1 where one is not in it.
    `seen_of` answers the places plus one of what is left out for one of them; 0 is no place.
    `with_answers`: also which articles are answered at all, which takes longer than the ranks.
    """
    ranks, answered = [np.zeros(0, np.int64)], []
    at_once = max(1, _SCORES_AT_ONCE // article_count)
    for begin in range(0, len(users), at_once):
        asked = users[begin : begin + at_once]
        scores = scorer.scores(asked)
        seen = np.zeros((len(asked), article_count + 1), bool)
        for row, user in enumerate(asked):
            seen[row, seen_of(int(user))] = True
        ranks.append(rank_targets(scores, columns[begin : begin + at_once], seen[:, 1:]))
        if with_answers:
            answered.append(top_columns(scores, seen[:, 1:], ANSWERED))
    return Ranked(np.concatenate(ranks), answered, article_count)
