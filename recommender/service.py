"""History, user vector, candidates; and what to answer when one of them is not to be had."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from recommender.backends import Backend, Retriever, UserTower, UserVectors, padded_histories
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
from recommender.tracker import Pin, ReleaseTracker
from service_runtime.deadlines import Deadline
from service_runtime.errors import BackendUnavailableError, CallError, ReleaseNotHeldError
from service_runtime.metrics import LATENCY_BUCKETS

__all__ = ["RecommenderService"]

BackendT = TypeVar("BackendT", bound=Backend)
AnswerT = TypeVar("AnswerT")


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
    ) -> None:
        self._history = history
        self._models = models
        self._indexes = indexes
        self._tracker = tracker
        self._metrics = _Metrics(registry)

    async def candidates(self, query: CandidateQuery, deadline: Deadline) -> Candidates:
        """Answer up to `query.limit` articles, stepping down to POPULAR where something fails.

        Raises BackendUnavailableError while no release was ever ready, ReleaseNotHeldError for
        a named release that is not in service, InvalidRequestError for an unknown attribute.
        """
        pin = self._tracker.pin_for(query.user_id, query.release)
        pin.popular.check(query.filters)
        asked = _Asked(query, deadline, _Stages(self._metrics))
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
            with asked.stages.timed("popular"):
                ranking = pin.popular.ranking(
                    query.limit, asked.excluded, query.filters, query.region_id
                )
            source, reason = Source.POPULAR, step.reason
        self._metrics.count_answer(source, reason, pin.release)
        shorter = ranking.ids.size < query.limit
        return Candidates(ranking, pin.release, source, reason, shorter, asked.stages.seconds)

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
        with asked.stages.timed("history"), _or_step_down(FallbackReason.HISTORY_UNAVAILABLE):
            return await self._history.article_ids(asked.query.user_id, asked.deadline.budget())

    async def _nearest(self, release: int, asked: "_Asked") -> Ranking:
        if not asked.history:
            raise _StepDownError(FallbackReason.NO_HISTORY)
        self._check_holders(release)
        stages = asked.stages
        with stages.timed("user_vector"), _or_step_down(FallbackReason.MODEL_UNAVAILABLE):
            user = await self._user_vector(release, asked)
        if user.known[0] == 0:
            raise _StepDownError(FallbackReason.UNKNOWN_HISTORY)
        with stages.timed("search"), _or_step_down(FallbackReason.SEARCH_UNAVAILABLE):
            return await self._search(release, user, asked)

    async def _user_vector(self, release: int, asked: "_Asked") -> UserVectors:
        region_id = asked.query.region_id
        histories = padded_histories([list(asked.history)])
        region = np.array([-1 if region_id is None else region_id], np.int64)
        return await self._ask(
            self._models,
            release,
            asked.deadline,
            lambda client, seconds: client.user_vectors(release, histories, region, seconds),
        )

    async def _search(self, release: int, user: UserVectors, asked: "_Asked") -> Ranking:
        excluded = asked.excluded
        rankings = await self._ask(
            self._indexes,
            release,
            asked.deadline,
            lambda client, seconds: client.search(
                release,
                user.vectors,
                asked.query.limit,
                excluded=[excluded] if excluded.size else None,
                filters=asked.query.filters,
                timeout_seconds=seconds,
            ),
        )
        return rankings[0]

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

    async def _ask(
        self,
        fleet: Fleet[BackendT],
        release: int,
        deadline: Deadline,
        call: Callable[[BackendT, float], Awaitable[AnswerT]],
    ) -> AnswerT:
        """Call a holder of the release; after a failure once more, at a different address.

        Where there is another, the first gets half of the time that is left: one that hangs then
        costs a retry and not the answer. But no less than answers take: where little is left, one
        call with all of it is worth more than two with too little.
        """
        first = fleet.pick(release)
        if first is None:
            raise BackendUnavailableError(f"nobody is ready for release {release}")
        spare = fleet.second_chance(release, first) is not None
        budget = deadline.budget()
        if spare:
            budget = max(budget / 2, min(budget, fleet.patience_seconds))
        try:
            return await self._attempt(fleet, first, release, budget, call)
        except CallError:
            second = fleet.second_chance(release, first)  # anew: the fleet may have changed
            if second is None:
                raise
        fleet.retried()
        return await self._attempt(fleet, second, release, deadline.budget(), call)

    async def _attempt(
        self,
        fleet: Fleet[BackendT],
        backend: BackendT,
        release: int,
        seconds: float,
        call: Callable[[BackendT, float], Awaitable[AnswerT]],
    ) -> AnswerT:
        started = time.perf_counter()
        try:
            answer = await call(backend, seconds)
        except CallError as error:
            fleet.failed(backend, release, error)
            raise
        fleet.succeeded(backend, time.perf_counter() - started)
        return answer


@contextmanager
def _or_step_down(reason: FallbackReason) -> Iterator[None]:
    try:
        yield
    except ReleaseNotHeldError as error:
        raise _ReleaseGoneError(reason) from error
    except CallError as error:
        raise _StepDownError(reason) from error


class _Asked:
    """One query on its way."""

    def __init__(self, query: CandidateQuery, deadline: Deadline, stages: "_Stages") -> None:
        self.query = query
        self.deadline = deadline
        self.stages = stages
        self.history: Sequence[int] = query.recent

    @property
    def excluded(self) -> Int64s:
        """The articles that must not be in the answer, int64[n]."""
        if not self.query.exclude_viewed or not self.history:
            return self.query.excluded
        return np.concatenate([self.query.excluded, np.array(self.history, np.int64)])


class _Stages:
    """How long each stage of one call took."""

    def __init__(self, metrics: "_Metrics") -> None:
        self.seconds: dict[str, float] = {}
        self._metrics = metrics

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.seconds[stage] = seconds
            self._metrics.stage_durations[stage].observe(seconds)


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
        self._fallbacks = Counter(
            "recsys_fallbacks_total",
            "Answers that were not PERSONALIZED, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in FallbackReason:
            self._fallbacks.labels(reason.value)

    def count_answer(self, source: Source, reason: FallbackReason | None, release: int) -> None:
        self._answers.labels(source.value, str(release)).inc()
        if reason is not None:
            self._fallbacks.labels(reason.value).inc()
