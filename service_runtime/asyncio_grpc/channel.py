"""A channel to one address, for the stubs of generated code."""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc

from service_runtime.asyncio_grpc.client_connection import (
    ClientConnection,
    NotBegunError,
    call_error,
)
from service_runtime.asyncio_grpc.header_blocks import block
from service_runtime.asyncio_grpc.leaving import let_go
from service_runtime.asyncio_grpc.metadata import headers_of_metadata, timeout_of_seconds

__all__ = ["Channel"]

_CONNECT_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.1
_MAX_BACKOFF_SECONDS: Final = 0.5


class Channel:
    """Calls of one message to one `host:port`; connects at the first of them, and again."""

    def __init__(
        self,
        address: str,
        *,
        max_message_bytes: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """`server_name`: what the server's certificate must be for."""
        host, _, port = address.rpartition(":")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._tls = tls
        self._server_name = server_name if tls is not None else None
        self._max_message_bytes = max_message_bytes
        self._connection: ClientConnection | None = None
        self._opened: set[ClientConnection] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._backoff_seconds = _FIRST_BACKOFF_SECONDS
        self._not_before = 0.0
        self._is_closed = False

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # generated code passes it
    ) -> "Callable[..., Awaitable[Any]]":
        """Make what calls a method: `(request, timeout=None, metadata=None, trailers=None)`."""
        headers = block((
            (":method", "POST"),
            (":scheme", "http" if self._tls is None else "https"),
            (":path", path),
            (":authority", self._server_name or self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "recsys-serving"),
        ))  # fmt: skip
        return _Method(self, headers, request_serializer, response_deserializer).call

    async def connect(self, timeout_seconds: float | None = None) -> None:
        """Connect now instead of at the first call. Raises grpc.aio.AioRpcError."""
        await self._connected(timeout_seconds)

    async def ask(
        self,
        headers: bytes,
        message: bytes,
        timeout_seconds: float | None,
        trailers: list[tuple[str, str]] | None = None,
    ) -> bytes:
        """Make one call; what its answer ends with is added to `trailers`.

        Raises grpc.aio.AioRpcError.

        What the server did not begin with is sent once more, on a new connection if there has to be
        one. All of it takes no longer than the time-out.
        """
        started, left, refused = time.monotonic(), timeout_seconds, ""
        for _ in range(2):
            connection = self._connection
            if connection is None or not connection.is_usable:
                connection = await self._connected(left)
                left = _left(timeout_seconds, started)
            try:
                block_of_call = headers + _timeout_block(left)
                return await connection.call(block_of_call, message, left, trailers)
            except NotBegunError as error:
                refused, left = str(error), _left(timeout_seconds, started)
        raise call_error(grpc.StatusCode.UNAVAILABLE, refused)

    async def close(self, grace_seconds: float) -> None:
        """Make no more calls, and give those that are under way so long to end."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        await let_go([each for each in self._opened if not each.is_closed], grace_seconds)

    async def _connected(self, timeout_seconds: float | None) -> ClientConnection:
        """Answer a connection, a new one if need be. Raises grpc.aio.AioRpcError."""
        if self._is_closed:
            raise grpc.aio.UsageError("Channel is closed.")
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        if self._connecting is None and time.monotonic() >= self._not_before:
            self._connecting = asyncio.create_task(self._connect())
        # Nobody waits while a server is looked for that could not be reached.
        if self._connecting is not None and self._failure is None:
            await asyncio.wait({self._connecting}, timeout=timeout_seconds)
            if self._is_closed:
                raise grpc.aio.UsageError("Channel is closed.")
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        if self._failure is None and self._connecting is not None:
            raise call_error(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"there is no connection to {self._address} yet"
            )
        raise call_error(
            grpc.StatusCode.UNAVAILABLE, f"failed to connect to {self._address}: {self._failure}"
        )

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: ClientConnection(self._max_message_bytes, self._opened),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
                # Who listens may still hang up, for want of a certificate or of a server behind it.
                await connection.greeted
        except TimeoutError:
            self._failed(f"no answer within {_CONNECT_SECONDS:g} s")
            if connection is not None:
                connection.abort()
        except (OSError, UnicodeError) as error:  # a certificate or a name that is refused, too
            self._failed(str(error))
        else:
            self._connection = connection
            self._failure = None
            self._not_before = 0.0
            self._backoff_seconds = _FIRST_BACKOFF_SECONDS
        finally:
            self._connecting = None

    def _failed(self, why: str) -> None:
        self._failure = why
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - callers that lost a server spread out
        self._not_before = time.monotonic() + self._backoff_seconds * spread
        self._backoff_seconds = min(self._backoff_seconds * 1.6, _MAX_BACKOFF_SECONDS)


class _Method:
    """One method of a channel."""

    __slots__ = ("_channel", "_deserialize", "_headers", "_serialize")

    def __init__(
        self,
        channel: Channel,
        headers: bytes,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._headers = headers
        self._serialize = serialize
        self._deserialize = deserialize

    async def call(
        self,
        request: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - grpc's name for it
        metadata: Iterable[tuple[str, str | bytes]] | None = None,
        trailers: list[tuple[str, str]] | None = None,
    ) -> Any:
        """Call it; what the answer ends with is added to `trailers`.

        Raises grpc.aio.AioRpcError.
        """
        message = request if self._serialize is None else self._serialize(request)
        headers = self._headers
        if metadata:
            headers += block(headers_of_metadata(metadata))
        answer = await self._channel.ask(headers, message, timeout, trailers)
        if self._deserialize is None:
            return answer
        try:
            return self._deserialize(answer)
        except Exception as error:
            raise call_error(
                grpc.StatusCode.INTERNAL, "the answer is not a message of this method"
            ) from error


def _left(timeout_seconds: float | None, started: float) -> float | None:
    if timeout_seconds is None:
        return None
    return max(0.0, timeout_seconds - (time.monotonic() - started))


def _timeout_block(seconds: float | None) -> bytes:
    return b"" if seconds is None else block((("grpc-timeout", timeout_of_seconds(seconds)),))
