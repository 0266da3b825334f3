"""Channels to backends: one address each, quick to notice that it is back."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import grpc

from service_runtime.asyncio_grpc.channel import Channel as AsyncioChannel
from service_runtime.settings import Transport
from service_runtime.tls import CallerTls

__all__ = ["Channel", "grpcio_channel", "open_channel"]

# Popular articles of all regions are one message.
_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_OPTIONS: Final = (
    # By default a lost backend is tried again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Retries have one owner, and that is not the channel.
    ("grpc.enable_retries", 0),
    # Channels of one process to one address are still channels of their own.
    ("grpc.use_local_subchannel_pool", 1),
)


class Channel(Protocol):
    """What callers use of `grpc.aio.Channel`."""

    def unary_unary(
        self,
        path: str,
        /,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
    ) -> Callable[..., Awaitable[Any]]:
        """Make what calls a method: `(request, timeout=, metadata=)`."""

    async def close(self, grace_seconds: float, /) -> None:
        """Make no more calls, and give those that are under way so long to end."""


def open_channel(address: str, transport: Transport, tls: CallerTls | None = None) -> Channel:
    """Open a channel to one `host:port`; connecting happens at the first call."""
    if transport == "asyncio":
        return AsyncioChannel(
            address,
            max_message_bytes=_MAX_MESSAGE_BYTES,
            tls=None if tls is None else tls.context(),
            server_name=None if tls is None else tls.name,
        )
    return cast("Channel", grpcio_channel(address, tls))


def grpcio_channel(address: str, tls: CallerTls | None = None) -> grpc.aio.Channel:
    """Open a channel of the library's own."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.credentials(), options=(*_OPTIONS, *tls.options))
