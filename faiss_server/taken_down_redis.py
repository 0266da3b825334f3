"""The taken-down articles in Redis.

Key layout: `recsys:{taken_down}:articles` is a set of article ids in decimal;
`recsys:{taken_down}:state` is a hash: `version` grows with each change, `token` is drawn anew by
each, `life` when there is none. Another life, a smaller version, or another token with the same
version (a change was lost, and another one made since) means that Redis has lost changes, or that
what is compared with it comes from an old file. The braces keep both on one node of a cluster.
"""

import logging
import secrets
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from faiss_server.taken_down import MOST_TAKEN_DOWN, TakenDown
from service_runtime.errors import BackendUnavailableError, InvalidRequestError
from service_runtime.redis_access import access_options

__all__ = ["ARTICLES_KEY", "STATE_KEY", "RedisTakeDowns", "read_article_ids"]

logger = logging.getLogger(__name__)

ARTICLES_KEY: Final = "recsys:{taken_down}:articles"
STATE_KEY: Final = "recsys:{taken_down}:state"

_STATE_FIELDS: Final = ("life", "version", "token")
_SECONDS: Final = 0.5
_AT_ONCE: Final = 10_000


class RedisTakeDowns:
    """A set that all servers with the same Redis share.

    Raises ValueError for a malformed URL, without its text; BackendUnavailableError when a cluster
    does not answer.
    """

    def __init__(
        self, url: str, *, cluster: bool = False, credentials_file: Path | None = None
    ) -> None:
        options = {
            "socket_timeout": _SECONDS,
            "socket_connect_timeout": _SECONDS,
            **access_options(url, credentials_file),
        }
        kind: Any = redis.RedisCluster if cluster else redis.Redis
        with _redis_errors():  # a cluster's client connects here
            self._client: Any = kind.from_url(url, retry=Retry(NoBackoff(), 0), **options)

    def read(self, known: TakenDown) -> TakenDown:
        """Answer the set of now; `known` itself where that is it."""
        with _redis_errors():
            life, version, token = _state_of(self._client.hmget(STATE_KEY, _STATE_FIELDS))
            if (life, version, token) == (known.life, known.version, known.token):
                return known
            if known.is_lost_by(life, version):
                self._give_back(known, version)
            return self._whole()

    def change(
        self, known: TakenDown, removed: Collection[int], restored: Collection[int]
    ) -> TakenDown:
        """Take articles down or back, and answer the set that follows."""
        now = self.read(known)
        after = np.setdiff1d(np.union1d(now.article_ids, _array(removed)), _array(restored))
        if removed and after.size > MOST_TAKEN_DOWN:
            raise InvalidRequestError(
                f"article_ids: {after.size} articles would be taken down, at most "
                f"{MOST_TAKEN_DOWN} may be; publish a release without them, and restore them"
            )
        with _redis_errors(), self._client.pipeline(transaction=True) as transaction:
            for part in _parts(removed):
                transaction.sadd(ARTICLES_KEY, *part)
            for part in _parts(restored):
                transaction.srem(ARTICLES_KEY, *part)
            _count_change(transaction)
            # In the same transaction: what is answered is what was changed, also where Redis fails
            # over right after it.
            return _whole(transaction)

    def _whole(self) -> TakenDown:
        with self._client.pipeline(transaction=True) as transaction:
            return _whole(transaction)

    def _give_back(self, known: TakenDown, version: int) -> None:
        """Redis came back without what it had: better too much taken down than too little."""
        with self._client.pipeline(transaction=True) as transaction:
            for part in _parts(known.article_ids.tolist()):
                transaction.sadd(ARTICLES_KEY, *part)
            _count_change(transaction, by=max(1, known.version - version + 1))
            transaction.execute()
        logger.warning(
            "Redis had lost what is taken down: %d articles are given back to it",
            known.article_ids.size,
        )


def _whole(transaction: Any) -> TakenDown:
    """Read state and set at the end of a transaction."""
    transaction.hmget(STATE_KEY, _STATE_FIELDS)
    transaction.smembers(ARTICLES_KEY)
    *_, state, members = transaction.execute()
    life, version, token = _state_of(state)
    return TakenDown(life, version, np.array(sorted(map(int, members)), np.int64), token)


def _count_change(transaction: Any, by: int = 1) -> None:
    transaction.hsetnx(STATE_KEY, "life", secrets.token_hex(8))
    transaction.hincrby(STATE_KEY, "version", by)
    transaction.hset(STATE_KEY, "token", secrets.token_hex(8))


def _state_of(values: Any) -> tuple[str, int, str]:
    life, version, token = values
    return (life or b"").decode(), int(version or 0), (token or b"").decode()


def read_article_ids(file: Path) -> list[int]:
    """Read ids, one in a line, from a file, or from stdin for `-`.

    Raises ValueError naming the line.
    """
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    ids = []
    for number, line in lines:
        if not line:
            continue
        if not line.isdecimal() or int(line) >= 1 << 63:
            raise ValueError(f"{file}: line {number}: {line[:40]!r} is no article id")
        ids.append(int(line))
    return ids


def _array(article_ids: Collection[int]) -> Any:
    return np.fromiter(article_ids, np.int64, len(article_ids))


def _parts(article_ids: Collection[int]) -> Iterator[list[int]]:
    listed = list(article_ids)
    for begin in range(0, len(listed), _AT_ONCE):
        yield listed[begin : begin + _AT_ONCE]


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, RedisClusterException, OSError, ValueError) as error:
        raise BackendUnavailableError(f"taken-down articles: Redis: {error}") from error
