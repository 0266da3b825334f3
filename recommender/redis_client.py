"""How Redis is connected to."""

from pathlib import Path
from typing import Any, Final, TypeAlias

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

__all__ = ["Client", "connect_redis", "read_credentials"]

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
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_SECONDS,
        "driver_info": None,  # told by CLIENT SETINFO, which servers before 7.2 do not know
    }
    if credentials_file is not None:
        if "@" in url:
            raise ValueError("it names a user beside REDIS_CREDENTIALS_FILE; leave one of them out")
        options["credential_provider"] = _FromFile(credentials_file)
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
        raise ValueError(
            "not redis://[user:password@]host[:port][/db], rediss://... or unix://...; "
            "signs such as / and @ in a password are written %2F and %40"
        ) from None
    return redis.asyncio.Redis.from_pool(pool)


def read_credentials(file: Path) -> tuple[str, str]:
    """Answer user and password; raises OSError, ValueError for anything but one line of both."""
    user, colon, password = file.read_text().strip().partition(":")
    if not (user and colon and password) or "\n" in password:
        raise ValueError(f"{file}: must be one line, user:password")
    return user, password


class _FromFile(CredentialProvider):
    """Reads them for every connection, so that they can be replaced while this runs."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get_credentials(self) -> tuple[str, str]:
        try:
            return read_credentials(self._file)
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"REDIS_CREDENTIALS_FILE: {error}") from error

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()  # a line of a local file
