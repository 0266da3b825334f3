"""What a server speaks gRPC by: the event loop alone, or the `grpcio` library's server."""

from dataclasses import dataclass
from typing import Final, Protocol, cast

import grpc

from service_runtime.asyncio_grpc.server import Limits
from service_runtime.asyncio_grpc.server import Server as AsyncioServer
from service_runtime.errors import StartupError
from service_runtime.settings import ServerSettings
from service_runtime.tls import server_tls

__all__ = ["GrpcServer", "new_server", "taken_address"]

_MIB: Final = 1024 * 1024
_MAX_REQUEST_BYTES: Final = 4 * _MIB
_MAX_RESPONSE_BYTES: Final = 64 * _MIB
_MIN_PING_SECONDS: Final = 10.0
# Further calls of a connection wait with the caller. More than a server takes at once
# (max_concurrent_calls), so that what is too much is refused and does not wait.
_MAX_STREAMS: Final = 1024


class GrpcServer(Protocol):
    """A server that does not listen yet, or does."""

    @property
    def services(self) -> grpc.aio.Server:
        """What generated code adds services to, before it listens."""

    async def listen(self, port: int) -> int:
        """Take calls from now on; answer the port. Raises StartupError where it is taken."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and give those that are here so long; the shortest time counts."""


def new_server(
    settings: ServerSettings, interceptor: grpc.aio.ServerInterceptor, *, shares_port: bool
) -> GrpcServer:
    """Make a server by the transport of the settings; all calls go through the interceptor.

    `shares_port`: other workers listen on its port, too.
    """
    if settings.grpc_transport == "asyncio":
        return _OnEventLoop(settings, AsyncioServer(_limits(settings), interceptor), shares_port)
    options = _options(settings, shares_port=shares_port)
    return _OfGrpcio(settings, grpc.aio.server(interceptors=[interceptor], options=options))


@dataclass(frozen=True)
class _OnEventLoop:
    settings: ServerSettings
    server: AsyncioServer
    shares_port: bool

    @property
    def services(self) -> grpc.aio.Server:
        return cast("grpc.aio.Server", self.server)  # as far as generated code knows it

    async def listen(self, port: int) -> int:
        tls = server_tls(self.settings)
        context = None if tls is None else tls.context()
        try:
            return await self.server.listen(
                self.settings.host, port, tls=context, shares_port=self.shares_port
            )
        except OSError as error:
            raise taken_address(self.settings.address(port)) from error

    async def stop(self, grace_seconds: float) -> None:
        await self.server.stop(grace_seconds)


@dataclass(frozen=True)
class _OfGrpcio:
    settings: ServerSettings
    services: grpc.aio.Server

    async def listen(self, port: int) -> int:
        address, tls = self.settings.address(port), server_tls(self.settings)
        try:
            if tls is None:
                port = self.services.add_insecure_port(address)
            else:
                port = self.services.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise taken_address(address) from error
        await self.services.start()
        return port

    async def stop(self, grace_seconds: float) -> None:
        await self.services.stop(grace_seconds)


def _limits(settings: ServerSettings) -> Limits:
    return Limits(
        max_message_bytes=_MAX_REQUEST_BYTES,
        max_streams=_MAX_STREAMS,
        max_age_seconds=settings.max_connection_age_seconds,
        age_grace_seconds=settings.drain_seconds,
        min_ping_seconds=_MIN_PING_SECONDS,
    )


def _options(settings: ServerSettings, *, shares_port: bool) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", _MAX_RESPONSE_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", int(_MIN_PING_SECONDS * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # On by default: two servers would share a port without a word.
        ("grpc.so_reuseport", int(shares_port)),
        # Connections end after a while (gRPC spreads it by a tenth), so that callers find replicas
        # that were added since; calls under way on them are let finish.
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.drain_seconds * 1000)),
    )


def taken_address(address: str) -> StartupError:
    """Make the error that says that nobody can listen there."""
    return StartupError(
        f"cannot listen on {address}: the port is in use or the address is not this "
        "machine's; choose another PORT or HOST"
    )
