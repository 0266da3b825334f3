"""The fifth step: leave-one-out over the whole catalogue, through the exported model."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import PopularityBaseline, TransitionsBaseline
from pipeline.export import ExportedModel, ServedTower
from pipeline.metrics import RankingMetrics, measure, rank_targets, top_columns
from pipeline.preprocess import PreparedArrays, PreparedData

__all__ = ["Evaluation", "evaluate"]

_SCORES_AT_ONCE: Final = 10_000_000
_COVERAGE_K: Final = 200


@dataclass(frozen=True)
class Evaluation:
    """The model beside its baselines, on the same users and by the same rules."""

    model: RankingMetrics
    popularity: RankingMetrics
    transitions: RankingMetrics
    in_service: RankingMetrics | None
    """Of the release in service, on the same users and among the articles of this one."""
    user_count: int
    test_user_count: int
    """Users with a test target, of whom `user_count` were asked."""
    unknown_targets: int
    """Test targets outside of the vocabulary: always misses."""
    seen_removed: bool

    def offline_metrics(self) -> dict[str, float]:
        """Flatten into the names of the manifest, such as `popularity_hr_at_200`."""
        return {
            prefix + name: value
            for prefix, metrics in (
                ("", self.model),
                ("popularity_", self.popularity),
                ("transitions_", self.transitions),
            )
            for name, value in _flat(metrics).items()
        }


class _Scorer(Protocol):
    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]: ...


class _Model:
    def __init__(self, exported: ExportedModel, arrays: PreparedArrays) -> None:
        self._tower = ServedTower(exported.saved_model)
        self._articles = exported.article_vectors()
        self._arrays = arrays

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        histories = self._arrays.test_histories(users)
        vectors, _ = self._tower.user_vectors(histories, self._arrays.target_regions[users])
        return vectors @ self._articles.T


class _InService:
    """The release in service; an article that it does not have comes last, at the end of all."""

    def __init__(self, exported: ExportedModel, arrays: PreparedArrays) -> None:
        self._tower = ServedTower(exported.saved_model)
        self._arrays = arrays
        columns = _columns(arrays.vocabulary, exported.article_ids())
        self._columns = columns[columns >= 0]
        self._articles = exported.article_vectors()[columns >= 0]

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        histories = self._arrays.test_histories(users)
        vectors, _ = self._tower.user_vectors(histories, self._arrays.target_regions[users])
        scores = np.full((len(users), len(self._arrays.vocabulary)), -np.inf, np.float32)
        scores[:, self._columns] = vectors @ self._articles.T
        return scores


def evaluate(
    exported: ExportedModel,
    prepared: PreparedData,
    in_service: ExportedModel | None = None,
    *,
    remove_seen: bool = True,
    max_users: int = 10_000,
    seed: int = 1,
) -> Evaluation:
    """Rank each test user's last view among all articles, by the model, by the baselines and by the
    release in service.

    Of more than `max_users` test users a uniform sample is asked.
    """
    arrays = prepared.load()
    tested = np.flatnonzero(arrays.targets >= 0)
    users = np.sort(np.random.default_rng(seed).permutation(tested)[:max_users])
    columns = _columns(arrays.vocabulary, arrays.targets[users])

    def measured(scorer: _Scorer) -> RankingMetrics:
        return _measure(scorer, arrays, users, columns, remove_seen=remove_seen)

    return Evaluation(
        model=measured(_Model(exported, arrays)),
        popularity=measured(PopularityBaseline(arrays)),
        transitions=measured(TransitionsBaseline(arrays)),
        in_service=None if in_service is None else measured(_InService(in_service, arrays)),
        user_count=len(users),
        test_user_count=len(tested),
        unknown_targets=int((columns < 0).sum()),
        seen_removed=remove_seen,
    )


def _measure(
    scorer: _Scorer,
    arrays: PreparedArrays,
    users: NDArray[np.int64],
    columns: NDArray[np.int64],
    *,
    remove_seen: bool,
) -> RankingMetrics:
    ranks, answered = [], []
    article_count = len(arrays.vocabulary)
    at_once = max(1, _SCORES_AT_ONCE // article_count)
    for begin in range(0, len(users), at_once):
        chunk = slice(begin, begin + at_once)
        scores = scorer.scores(users[chunk])
        seen = _seen(arrays, users[chunk]) if remove_seen else np.zeros(scores.shape, bool)
        ranks.append(rank_targets(scores, columns[chunk], seen))
        answered.append(top_columns(scores, seen, _COVERAGE_K))
    return measure(np.concatenate(ranks), answered, article_count)


def _columns(vocabulary: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Name the column of each id in the vocabulary, -1 where it is not in it."""
    ascending = np.argsort(vocabulary)
    places = np.searchsorted(vocabulary, ids, sorter=ascending)
    found = ascending[np.minimum(places, len(ascending) - 1)]
    return np.where(vocabulary[found] == ids, found, -1)


def _seen(arrays: PreparedArrays, users: NDArray[np.int64]) -> NDArray[np.bool_]:
    seen = np.zeros((len(users), len(arrays.vocabulary) + 1), bool)
    for row, user in enumerate(users):
        seen[row, arrays.articles[arrays.offsets[user] : arrays.offsets[user + 1]]] = True
    return seen[:, 1:]  # column 0 stands for unknown


def _flat(metrics: RankingMetrics) -> dict[str, float]:
    return {
        **{f"hr_at_{k}": value for k, value in metrics.hit_rate.items()},
        **{f"ndcg_at_{k}": value for k, value in metrics.ndcg.items()},
        "mrr": metrics.mrr,
        "coverage": metrics.coverage,
    }
