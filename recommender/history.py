"""Users' last views in Redis.

Key layout: `recsys:history:{<user id>}` (the braces keep a cluster's slot to the user id) is a
sorted set of article ids in decimal, scored by the time of the view in ms. It holds at most
HISTORY_LENGTH members and expires.
"""

import asyncio
from array import array
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol, cast

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from recommender.breaker import CircuitBreaker
from recommender.domain import HISTORY_LENGTH, View
from recommender.kept_connections import KeptConnections
from recommender.redis_client import Client
from recommender.trouble import Trouble
from service_runtime.errors import BackendUnavailableError, CallError

__all__ = ["History", "RedisHistory"]


_FAIR_SECONDS: Final = 0.005
_OF_A_PIPELINE: Final = "of pipeline caused error: "


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
    """Histories as sorted sets.

    Raises BackendUnavailableError when Redis does not answer, and for a user whose key holds what
    is no history.
    """

    def __init__(self, client: Client, ttl_seconds: int) -> None:
        self._client = client
        self._kept = KeptConnections(client.connection_pool) if isinstance(client, Redis) else None
        self._ttl_ms = ttl_seconds * 1000
        self._breaker = CircuitBreaker(
            "history", threshold=5, open_seconds=0.25, is_answer=_is_of_one_key
        )
        self._errors = _RedisErrors(self._breaker)

    async def article_ids(
        self, user_ids: Sequence[str], timeout_seconds: float
    ) -> Sequence[list[int] | CallError]:
        """Answer the articles that each user viewed, newest first.

        What is wrong with one key is the answer for that user only.
        """
        with self._errors, self._guard(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                rows = await self._newest(user_ids)
        return [_ids_of(members) for members in rows]

    async def _newest(self, user_ids: Sequence[str]) -> Sequence[Any]:
        if self._kept is not None:
            rows = await self._kept.ask([_newest_of(user_id) for user_id in user_ids])
        else:
            async with self._client.pipeline(transaction=False) as pipeline:
                for user_id in user_ids:
                    pipeline.zrange(_key(user_id), 0, HISTORY_LENGTH - 1, desc=True)
                rows = await pipeline.execute(raise_on_error=False)
        if rows and all(isinstance(row, Exception) for row in rows):
            raise rows[0]  # it is hardly about each of their keys
        return rows

    async def views(self, user_id: str, timeout_seconds: float) -> list[View]:
        """Answer the views, newest first."""
        with self._errors, self._guard(timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                members = await self._client.zrange(
                    _key(user_id), 0, HISTORY_LENGTH - 1, desc=True, withscores=True
                )
        pairs = cast("list[tuple[bytes, float]]", members)
        ids = _int64s(member for member, _ in pairs)
        times = _int64s(score for _, score in pairs)
        return [View(*pair) for pair in zip(ids, times, strict=True)]

    async def record(self, user_id: str, views: Sequence[View], timeout_seconds: float) -> None:
        """Add views in one transaction; of two views of an article the later one counts."""
        newest: dict[int, int] = {}
        for view in views:
            at = newest.get(view.article_id, view.viewed_at_ms)
            newest[view.article_id] = max(at, view.viewed_at_ms)
        key = _key(user_id)
        with self._errors, self._guard(timeout_seconds):
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
        return BackendUnavailableError(f"history: {_text(members)}")
    try:
        return _int64s(members)
    except BackendUnavailableError as error:
        return error


def _int64s(values: Iterable[bytes | float]) -> list[int]:
    try:
        return array("q", map(int, values)).tolist()
    except (ValueError, OverflowError) as error:
        raise BackendUnavailableError("history: an id or a time in the key is no int64") from error


def _key(user_id: str) -> str:
    return f"recsys:history:{{{user_id}}}"


def _newest_of(user_id: str) -> bytes:
    command: bytes = pack_command(("ZREVRANGE", _key(user_id), 0, HISTORY_LENGTH - 1))
    return command


def _text(error: Exception) -> str:
    """Answer what is wrong: of a pipeline's error what follows the command, which names a user."""
    _, of_a_pipeline, text = str(error).rpartition(_OF_A_PIPELINE)
    return text.strip("(\"',)") if of_a_pipeline else text


def _is_of_one_key(error: Exception) -> bool:
    return isinstance(error, ResponseError) and _text(error).startswith("WRONGTYPE")


class _RedisErrors:
    """A context that turns what Redis' client raises into BackendUnavailableError.

    What opens the breaker is logged, once. Not each failure: where every tenth call runs out of
    time, the lines would be more work than the calls.
    """

    __slots__ = ("_breaker", "_trouble")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._trouble = Trouble("histories in Redis")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None:
            self._trouble.over()
        elif isinstance(error, RedisError | RedisClusterException | OSError | TimeoutError):
            detail = _text(error) or "no answer in time"
            if self._breaker.is_open:
                self._trouble.tell(detail)
            raise BackendUnavailableError(f"history: {detail}") from error
