"""What the model must beat: popularity, and first-order transitions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.preprocess import PreparedArrays

__all__ = ["PopularityBaseline", "TransitionsBaseline"]


class PopularityBaseline:
    """Every user gets the most viewed articles."""

    def __init__(self, arrays: PreparedArrays) -> None:
        self._views = arrays.article_views.astype(np.float64)

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        """Score all articles of the vocabulary, [users, articles]."""
        return np.broadcast_to(self._views, (len(users), len(self._views)))


class TransitionsBaseline:
    """Articles that most often came right after the user's newest view, then popular ones."""

    def __init__(self, arrays: PreparedArrays) -> None:
        self._article_count = len(arrays.vocabulary)
        views = arrays.article_views
        self._popularity = views / (views.max() + 1.0)  # below one succession
        self._newest = _newest_known(arrays)
        self._begins, self._following, self._counts = _successions(arrays)

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        """Score all articles of the vocabulary, [users, articles]."""
        scores = np.tile(self._popularity, (len(users), 1))
        for row, newest in enumerate(self._newest[users]):
            of_newest = slice(self._begins[newest], self._begins[newest + 1])
            scores[row, self._following[of_newest] - 1] += self._counts[of_newest]
        return scores


def _newest_known(arrays: PreparedArrays) -> NDArray[np.int64]:
    """Index of each user's newest known view; 0 where there is none."""
    newest = np.zeros(len(arrays.targets), np.int64)
    known = arrays.articles > 0
    newest[arrays.owners()[known]] = arrays.articles[known]  # the last assignment stays
    return newest


def _successions(
    arrays: PreparedArrays,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count pairs of consecutive known views, as compressed rows by the first of the pair."""
    known = arrays.articles > 0
    articles, owners = arrays.articles[known].astype(np.int64), arrays.owners()[known]
    together = owners[1:] == owners[:-1]
    size = len(arrays.vocabulary) + 1
    pairs, counts = np.unique(
        articles[:-1][together] * size + articles[1:][together], return_counts=True
    )
    begins = np.searchsorted(pairs // size, np.arange(size + 1))
    return begins, pairs % size, counts
