"""Channels to backends: one address each, quick to notice that it is back."""

from typing import Final

import grpc

from service_runtime.tls import CallerTls

__all__ = ["open_channel"]

_OPTIONS: Final = (
    # By default a lost backend is tried again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Popular articles of all regions are one message.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Retries have one owner, and that is not the channel.
    ("grpc.enable_retries", 0),
    # Channels of one process to one address are still channels of their own.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str, tls: CallerTls | None = None) -> grpc.aio.Channel:
    """Open a channel to one `host:port`; connecting happens at the first call."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.credentials(), options=(*_OPTIONS, *tls.options))
