"""Users' last views in Redis.

Key layout: `recsys:history:{<user id>}` (the braces keep a cluster's slot to the user id) is a
sorted set of article ids in decimal, scored by the time of the view in ms. It holds at most
HISTORY_LENGTH members and expires.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol, cast

from redis.exceptions import RedisClusterException, RedisError

from recommender.breaker import CircuitBreaker
from recommender.domain import HISTORY_LENGTH, View
from recommender.redis_client import Client
from service_runtime.errors import BackendUnavailableError, CallError

__all__ = ["History", "RedisHistory"]


_FAIR_SECONDS: Final = 0.005


class History(Protocol):
    """What the service asks of a store of histories."""

    async def article_ids(
        self, user_ids: Sequence[str], timeout_seconds: float
    ) -> Sequence[list[int] | CallError]:
        """Answer the articles that each user viewed, newest first."""
        ...

    async def views(self, user_id: str, timeout_seconds: float) -> list[View]:
        """Answer the views, newest first."""
        ...

    async def record(self, user_id: str, views: Sequence[View], timeout_seconds: float) -> None:
        """Add views: all or none; repeated and late ones change nothing they should not."""
        ...


class RedisHistory:
    """Histories as sorted sets. Raises BackendUnavailableError when Redis does not answer."""

    def __init__(self, client: Client, ttl_seconds: int) -> None:
        self._client = client
        self._ttl_ms = ttl_seconds * 1000
        self._breaker = CircuitBreaker("history", threshold=5, open_seconds=0.25)

    async def article_ids(
        self, user_ids: Sequence[str], timeout_seconds: float
    ) -> Sequence[list[int] | CallError]:
        """Answer the articles that each user viewed, newest first.

        What is wrong with one key is the answer for that user only.
        """
        with _redis_errors, self._guard(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                rows = await self._newest(user_ids)
        return [_ids_of(members) for members in rows]

    async def _newest(self, user_ids: Sequence[str]) -> Sequence[Any]:
        if len(user_ids) == 1:  # a pipeline of one takes longer than the command
            return [await self._client.zrange(_key(user_ids[0]), 0, HISTORY_LENGTH - 1, desc=True)]
        async with self._client.pipeline(transaction=False) as pipeline:
            for user_id in user_ids:
                pipeline.zrange(_key(user_id), 0, HISTORY_LENGTH - 1, desc=True)
            return cast("Sequence[Any]", await pipeline.execute(raise_on_error=False))

    async def views(self, user_id: str, timeout_seconds: float) -> list[View]:
        """Answer the views, newest first."""
        with _redis_errors, self._guard(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                members = await self._client.zrange(
                    _key(user_id), 0, HISTORY_LENGTH - 1, desc=True, withscores=True
                )
        pairs = cast("list[tuple[bytes, float]]", members)
        return [View(int(member), int(score)) for member, score in pairs]

    async def record(self, user_id: str, views: Sequence[View], timeout_seconds: float) -> None:
        """Add views in one transaction; of two views of an article the later one counts."""
        newest: dict[int, int] = {}
        for view in views:
            at = newest.get(view.article_id, view.viewed_at_ms)
            newest[view.article_id] = max(at, view.viewed_at_ms)
        key = _key(user_id)
        with _redis_errors, self._guard(timeout_seconds):
            async with (
                asyncio.timeout(timeout_seconds),
                self._client.pipeline(transaction=True) as transaction,
            ):
                transaction.zadd(key, {str(id_): at for id_, at in newest.items()}, gt=True)
                transaction.zremrangebyrank(key, 0, -HISTORY_LENGTH - 1)
                transaction.pexpire(key, self._ttl_ms)
                await transaction.execute()

    def _guard(self, timeout_seconds: float) -> AbstractContextManager[None]:
        # So short a time-out says nothing about Redis, and must not close it to other callers.
        return self._breaker if timeout_seconds >= _FAIR_SECONDS else nullcontext()


def _ids_of(members: Any) -> list[int] | CallError:
    if isinstance(members, Exception):
        return BackendUnavailableError(f"history: {members}")
    return [int(member) for member in members]


def _key(user_id: str) -> str:
    return f"recsys:history:{{{user_id}}}"


class _RedisErrors:
    """A context that turns what Redis' client raises into BackendUnavailableError."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, RedisError | RedisClusterException | OSError | TimeoutError):
            detail = str(error) or "no answer in time"
            raise BackendUnavailableError(f"history: {detail}") from error


_redis_errors: Final = _RedisErrors()
