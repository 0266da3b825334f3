"""How Redis is connected to."""

from pathlib import Path
from typing import Final, TypeAlias

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service_runtime.redis_access import MALFORMED, access_options

__all__ = ["Client", "connect_redis"]

Client: TypeAlias = "redis.asyncio.Redis | redis.asyncio.RedisCluster"

_MAX_CONNECTIONS: Final = 64
_MAX_CLUSTER_CONNECTIONS: Final = 1024
_CONNECT_SECONDS: Final = 0.5


def connect_redis(
    url: str, *, cluster: bool = False, credentials_file: Path | None = None
) -> Client:
    """Make a client; it connects at the first command, and reads `credentials_file` each time.

    Raises ValueError for a malformed URL, without its text: it may hold a password. Commands are
    not retried by the client: the deadline of the call decides, and a lost Redis steps the answer
    down. When all connections are busy a command waits for one, within its call's deadline; a
    cluster's nodes have one for every call.
    """
    options = {
        "socket_connect_timeout": _CONNECT_SECONDS,
        **access_options(url, credentials_file),
    }
    try:
        if cluster:
            return redis.asyncio.RedisCluster.from_url(
                url, max_connections=_MAX_CLUSTER_CONNECTIONS, **options
            )
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
            # Each command has its caller's deadline; one of the client's own costs a task for each.
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            **options,
        )
    except ValueError:
        raise ValueError(MALFORMED) from None
    return redis.asyncio.Redis.from_pool(pool)
