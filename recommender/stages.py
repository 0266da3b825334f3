"""The three stages of an answer, each for many callers at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recommender.asking import ask_holder
from recommender.backends import Retriever, UserTower, padded_histories
from recommender.coalescing import Coalescer
from recommender.domain import AttributeFilter, Float32s, Int64s, Ranking
from recommender.fleet import Fleet
from recommender.history import History
from service_runtime.deadlines import Deadline
from service_runtime.errors import BackendUnavailableError, CallError

__all__ = ["Stages", "UserVector"]

_BULKY = 512


@dataclass(frozen=True, slots=True)
class UserVector:
    """float32[D], and how many articles of the history the model knows."""

    vector: Float32s
    known: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What searches of one batch have in common."""

    release: int
    k: int
    filters: tuple[AttributeFilter, ...]
    bulky: bool
    """So many are excluded that the search takes longer: not beside others."""


@dataclass(frozen=True, slots=True)
class _Row:
    vector: Float32s
    excluded: Int64s


class Stages:
    """Asks Redis, model servers and faiss servers; each method raises CallError.

    Use it as a context for the length of each caller's answer: it counts them.
    """

    def __init__(
        self,
        history: History,
        models: Fleet[UserTower],
        indexes: Fleet[Retriever],
        max_batch: int,
    ) -> None:
        self._store = history
        self._models = models
        self._indexes = indexes
        self._histories = Coalescer(self._send_users, max_batch)
        self._user_vectors = Coalescer(
            self._send_histories, max_batch, lambda release: len(models.holders.get(release, ()))
        )
        self._searches = Coalescer(
            self._send_vectors,
            max_batch,
            lambda wanted: len(indexes.holders.get(wanted.release, ())),
        )
        self._callers = 0

    def __enter__(self) -> None:
        self._callers += 1

    def __exit__(self, *_: object) -> None:
        self._callers -= 1

    async def history(self, user_id: str, deadline: Deadline) -> Sequence[int]:
        """Answer the articles that a user viewed, newest first."""
        return await self._histories.ask(None, user_id, deadline, alone=self._callers == 1)

    async def user_vector(
        self, release: int, history: Sequence[int], region_id: int, deadline: Deadline
    ) -> UserVector:
        """Turn a history, newest first, and a region (-1: unknown) into a user vector."""
        return await self._user_vectors.ask(
            release, (history, region_id), deadline, alone=self._callers == 1
        )

    async def search(
        self,
        release: int,
        vector: Float32s,
        k: int,
        excluded: Int64s,
        filters: tuple[AttributeFilter, ...],
        deadline: Deadline,
    ) -> Ranking:
        """Answer the k nearest articles to a user vector."""
        wanted = _Wanted(release, k, filters, bulky=excluded.size > _BULKY)
        return await self._searches.ask(
            wanted, _Row(vector, excluded), deadline, alone=self._callers == 1
        )

    async def _send_users(
        self, _: None, users: Sequence[str], deadlines: Sequence[Deadline]
    ) -> Sequence[Sequence[int] | CallError]:
        seconds = max(deadline.left() for deadline in deadlines)
        return await self._store.article_ids(users, seconds)

    async def _send_histories(
        self,
        release: int,
        asked: Sequence[tuple[Sequence[int], int]],
        deadlines: Sequence[Deadline],
    ) -> Sequence[UserVector | CallError]:
        histories = padded_histories([history for history, _ in asked])
        regions = np.array([region_id for _, region_id in asked], np.int64)
        users = await ask_holder(
            self._models,
            release,
            deadlines,
            lambda client, seconds: client.user_vectors(release, histories, regions, seconds),
        )
        usable = np.isfinite(users.vectors.sum(axis=1)).tolist()
        return [
            UserVector(vector, known) if ok else BackendUnavailableError("unusable user vector")
            for vector, known, ok in zip(users.vectors, users.known.tolist(), usable, strict=True)
        ]

    async def _send_vectors(
        self, wanted: _Wanted, rows: Sequence[_Row], deadlines: Sequence[Deadline]
    ) -> Sequence[Ranking | CallError]:
        vectors = np.stack([row.vector for row in rows])
        excluded = [row.excluded for row in rows]
        return await ask_holder(
            self._indexes,
            wanted.release,
            deadlines,
            lambda client, seconds: client.search(
                wanted.release,
                vectors,
                wanted.k,
                excluded=excluded if any(ids.size for ids in excluded) else None,
                filters=wanted.filters,
                timeout_seconds=seconds,
            ),
        )
