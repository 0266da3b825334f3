"""The sixth step: held-out views ranked among the whole catalogue, by the exported model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import (
    PopularityBaseline,
    TransitionsBaseline,
    count_successions,
    newest_known,
)
from pipeline.exported import ExportedModel, ServedTower
from pipeline.metrics import ANSWERED, MISSED, RankingMetrics
from pipeline.prepared import PreparedData, UserSample
from pipeline.ranking import Ranked, Scorer, rank_all
from pipeline.records import StepRecord
from pipeline.transform import Vocabulary

__all__ = ["Evaluation", "Hits", "evaluate"]


@dataclass(frozen=True)
class Hits:
    """Users by whose 200 best hold their next view: the model's and popularity's."""

    both: int
    model_only: int
    popularity_only: int
    neither: int


@dataclass(frozen=True)
class Evaluation(StepRecord):
    """The model beside its baselines, on the same users and by the same rules."""

    model: RankingMetrics
    popularity: RankingMetrics
    transitions: RankingMetrics
    in_service: RankingMetrics | None
    """Of the release in service, on the same users and among the articles of this one."""
    user_count: int
    test_user_count: int
    """Users with a test target, of whom `user_count` were asked."""
    hits: Hits
    unknown_targets: int
    """Test targets outside of the vocabulary: always misses."""
    seen_targets: int
    """Known ones that the user had viewed before and that are left out for it: always misses."""
    seen_removed: bool
    in_service_release: int | None = None

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


class _Model:
    def __init__(self, exported: ExportedModel, sample: UserSample) -> None:
        self._tower = ServedTower(exported.saved_model)
        self._articles = exported.article_vectors()
        self._sample = sample

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        histories = self._sample.test_histories(users)
        vectors, _ = self._tower.user_vectors(histories, self._sample.target_regions[users])
        return vectors @ self._articles.T


class _InService:
    """The release in service; an article that it does not have comes last, at the end of all."""

    def __init__(self, exported: ExportedModel, sample: UserSample, vocabulary: Vocabulary) -> None:
        self._model = _Model(exported, sample)
        self._article_count = len(vocabulary.ids)
        indices = vocabulary.indices(exported.article_ids())
        self._theirs = np.flatnonzero(indices)
        self._columns = indices[self._theirs] - 1

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        scores = np.full((len(users), self._article_count), -np.inf, np.float32)
        scores[:, self._columns] = self._model.scores(users)[:, self._theirs]
        return scores


def evaluate(
    exported: ExportedModel,
    prepared: PreparedData,
    in_service: ExportedModel | None,
    directory: Path,
    *,
    remove_seen: bool = True,
) -> Evaluation:
    """Rank each sampled user's held-out view among all articles, by the model, by the baselines
    and by the release in service.
    """
    sample, articles = prepared.sample(), prepared.graph.articles()
    indices = articles.indices(sample.article_ids)
    users = np.flatnonzero(sample.targets >= 0)
    asked = _Asked(
        sample, indices, users, articles.indices(sample.targets[users]).astype(np.int64) - 1,
        len(articles.ids), remove_seen,
    )  # fmt: skip
    newest = newest_known(sample, indices)
    transitions = TransitionsBaseline(
        count_successions(prepared, newest[users]), articles.counts, newest
    )
    model = asked.rank(_Model(exported, sample))
    popularity = asked.rank(PopularityBaseline(articles.counts))
    rival = None if in_service is None else asked.rank(_InService(in_service, sample, articles))
    return Evaluation(
        directory=directory,
        model=model.metrics(),
        popularity=popularity.metrics(),
        transitions=asked.rank(transitions).metrics(),
        in_service=None if rival is None else rival.metrics(),
        hits=_hits(model.ranks <= ANSWERED, popularity.ranks <= ANSWERED),
        user_count=len(users),
        test_user_count=prepared.test_user_count,
        unknown_targets=int((asked.columns < 0).sum()),
        seen_targets=int(((asked.columns >= 0) & (model.ranks == MISSED)).sum()),
        seen_removed=remove_seen,
        in_service_release=None if in_service is None else in_service.release,
    )


@dataclass(frozen=True)
class _Asked:
    """The users who are asked, and how an answer is measured."""

    sample: UserSample
    indices: NDArray[np.int32]
    """Of the sample's views."""
    users: NDArray[np.int64]
    columns: NDArray[np.int64]
    """Of their targets in the vocabulary, -1 where one is not in it."""
    article_count: int
    remove_seen: bool

    def rank(self, scorer: Scorer) -> Ranked:
        return rank_all(scorer, self.users, self.columns, self._seen, self.article_count)

    def _seen(self, user: int) -> NDArray[np.int32]:
        begin, end = self.sample.offsets[user], self.sample.offsets[user + 1]
        return self.indices[begin : end if self.remove_seen else begin]


def _hits(model: NDArray[np.bool_], popularity: NDArray[np.bool_]) -> Hits:
    return Hits(
        both=int((model & popularity).sum()),
        model_only=int((model & ~popularity).sum()),
        popularity_only=int((~model & popularity).sum()),
        neither=int((~model & ~popularity).sum()),
    )


def _flat(metrics: RankingMetrics) -> dict[str, float]:
    return {
        **{f"hr_at_{k}": value for k, value in metrics.hit_rate.items()},
        **{f"ndcg_at_{k}": value for k, value in metrics.ndcg.items()},
        "mrr": metrics.mrr,
        "coverage": metrics.coverage,
    }
