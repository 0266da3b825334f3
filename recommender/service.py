"""History, user vector, candidates; and what to answer when one of them is not to be had."""

import time
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from recommender.backends import Retriever, UserTower
from recommender.domain import (
    CandidateQuery,
    Candidates,
    FallbackReason,
    Int64s,
    Ranking,
    Source,
    View,
)
from recommender.fleet import Fleet
from recommender.history import History
from recommender.popular import AllowedPopular
from recommender.stages import Stages
from recommender.tracker import Pin, ReleaseTracker
from service_runtime.deadlines import Deadline
from service_runtime.errors import CallError, ReleaseNotHeldError
from service_runtime.metrics import LATENCY_BUCKETS
from service_runtime.tracing import begin_step

__all__ = ["RecommenderService"]


class _StepDownError(Exception):
    """The answer cannot be PERSONALIZED."""

    def __init__(self, reason: FallbackReason) -> None:
        self.reason = reason


class _ReleaseGoneError(_StepDownError):
    """Nobody who was asked holds the release any more."""


class RecommenderService:
    """Answers for one user at a time."""

    def __init__(
        self,
        history: History,
        models: Fleet[UserTower],
        indexes: Fleet[Retriever],
        tracker: ReleaseTracker,
        registry: CollectorRegistry,
        max_batch: int,
    ) -> None:
        self._history = history
        self._models = models
        self._indexes = indexes
        self._tracker = tracker
        self._stages = Stages(history, models, indexes, max_batch)
        self._metrics = _Metrics(registry)
        self._popular = AllowedPopular()

    async def candidates(self, query: CandidateQuery, deadline: Deadline) -> Candidates:
        """Answer up to `query.limit` articles, stepping down to POPULAR where something fails.

        Raises BackendUnavailableError while no release was ever ready, ReleaseNotHeldError for
        a named release that is not in service, InvalidRequestError for an unknown attribute.
        """
        with self._stages:
            return await self._answer(query, deadline)

    async def _answer(self, query: CandidateQuery, deadline: Deadline) -> Candidates:
        pin = self._tracker.pin_for(query.user_id, query.release)
        pin.popular.check(query.filters)
        asked = _Asked(query, deadline, _StageTimes(self._metrics))
        try:
            if not asked.history:
                asked.history = await self._stored_history(asked)
            try:
                ranking = await self._nearest(pin.release, asked)
            except _ReleaseGoneError:
                # Withdrawn since the last poll: all that was made from it is thrown away.
                pin = self._next_pin(query, gone=pin)
                ranking = await self._nearest(pin.release, asked)
            source, reason = Source.PERSONALIZED, None
        except _StepDownError as step:
            with asked.times.measured("popular"):
                allowed = self._popular.of(pin.release, pin.popular, self._indexes.taken_down)
                ranking = allowed.ranking(
                    query.limit, asked.excluded, query.filters, query.region_id
                )
            source, reason = Source.POPULAR, step.reason
        self._metrics.count_answer(source, reason, pin.release)
        shorter = ranking.ids.size < query.limit
        return Candidates(ranking, pin.release, source, reason, shorter, asked.times.seconds)

    def _next_pin(self, query: CandidateQuery, gone: Pin) -> Pin:
        self._tracker.reconsider()
        pin = self._tracker.pin_for(query.user_id, query.release)
        if pin is gone:
            raise _StepDownError(FallbackReason.NO_COMMON_RELEASE)
        pin.popular.check(query.filters)
        return pin

    async def record_views(self, user_id: str, views: Sequence[View], deadline: Deadline) -> None:
        """Add views to a user's history; raises BackendUnavailableError without Redis."""
        await self._history.record(user_id, views, deadline.budget())

    async def views(self, user_id: str, deadline: Deadline) -> list[View]:
        """Answer a user's history; raises BackendUnavailableError without Redis."""
        return await self._history.views(user_id, deadline.budget())

    async def _stored_history(self, asked: "_Asked") -> Sequence[int]:
        with asked.times.measured("history"), _OrStepDown(FallbackReason.HISTORY_UNAVAILABLE):
            return await self._stages.history(asked.query.user_id, asked.deadline)

    async def _nearest(self, release: int, asked: "_Asked") -> Ranking:
        if not asked.history:
            raise _StepDownError(FallbackReason.NO_HISTORY)
        self._check_holders(release)
        query, deadline, measured = asked.query, asked.deadline, asked.times.measured
        region_id = -1 if query.region_id is None else query.region_id
        with measured("user_vector"), _OrStepDown(FallbackReason.MODEL_UNAVAILABLE):
            user = await self._stages.user_vector(release, asked.history, region_id, deadline)
        if user.known == 0:
            raise _StepDownError(FallbackReason.UNKNOWN_HISTORY)
        with measured("search"), _OrStepDown(FallbackReason.SEARCH_UNAVAILABLE):
            return await self._stages.search(
                release, user.vector, query.limit, asked.excluded, query.filters, deadline
            )

    def _check_holders(self, release: int) -> None:
        """Step down at once where a side has nobody to ask; no stage is begun in vain."""
        sides = (
            (self._models, FallbackReason.MODEL_UNAVAILABLE),
            (self._indexes, FallbackReason.SEARCH_UNAVAILABLE),
        )
        for fleet, reason in sides:
            if not fleet.holders.get(release):
                others = fleet.answering > 0
                raise _StepDownError(FallbackReason.NO_COMMON_RELEASE if others else reason)


class _OrStepDown:
    """A context that turns failures into a step down; a class, since these are entered for every
    answer and a generator takes four times as long.
    """

    __slots__ = ("_reason",)

    def __init__(self, reason: FallbackReason) -> None:
        self._reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, ReleaseNotHeldError):
            raise _ReleaseGoneError(self._reason) from error
        if isinstance(error, CallError):
            raise _StepDownError(self._reason) from error


class _Asked:
    """One query on its way."""

    def __init__(self, query: CandidateQuery, deadline: Deadline, times: "_StageTimes") -> None:
        self.query = query
        self.deadline = deadline
        self.times = times
        self.history: Sequence[int] = query.recent

    @property
    def excluded(self) -> Int64s:
        """The articles that must not be in the answer, int64[n]."""
        excluded = self.query.excluded
        if not self.query.exclude_viewed or not self.history:
            return excluded
        viewed = np.array(self.history, np.int64)
        return np.concatenate([excluded, viewed]) if excluded.size else viewed


class _StageTimes:
    """How long each stage of one call took."""

    def __init__(self, metrics: "_Metrics") -> None:
        self.seconds: dict[str, float] = {}
        self._metrics = metrics

    def measured(self, stage: str) -> "_Measured":
        """Measure the time within a context."""
        return _Measured(self, stage)

    def add(self, stage: str, seconds: float) -> None:
        """Count a stage."""
        self.seconds[stage] = seconds
        self._metrics.stage_durations[stage].observe(seconds)


class _Measured:
    __slots__ = ("_stage", "_started", "_step", "_times")

    def __init__(self, times: _StageTimes, stage: str) -> None:
        self._times = times
        self._stage = stage

    def __enter__(self) -> None:
        self._step = begin_step(self._stage)
        self._started = time.perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._times.add(self._stage, time.perf_counter() - self._started)
        if self._step is not None:
            self._step.end(error)


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        durations = Histogram(
            "recsys_stage_duration_seconds",
            "Time spent in a stage of GetCandidates.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        stages = ("history", "user_vector", "search", "popular")
        self.stage_durations = {stage: durations.labels(stage) for stage in stages}
        self._answers = Counter(
            "recsys_answers_total", "Answers given.", ["source", "release"], registry=registry
        )
        self._answers_of: dict[tuple[Source, int], Counter] = {}
        self._fallbacks = Counter(
            "recsys_fallbacks_total",
            "Answers that were not PERSONALIZED, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in FallbackReason:
            self._fallbacks.labels(reason.value)

    def count_answer(self, source: Source, reason: FallbackReason | None, release: int) -> None:
        answers = self._answers_of.get((source, release))
        if answers is None:  # label look-ups cost more than the counting
            answers = self._answers.labels(source.value, str(release))
            self._answers_of[source, release] = answers
        answers.inc()
        if reason is not None:
            self._fallbacks.labels(reason.value).inc()
