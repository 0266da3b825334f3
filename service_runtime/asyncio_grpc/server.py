"""A gRPC server on the event loop, for the handlers that `grpc.aio.server` takes."""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Final

import grpc

from service_runtime.asyncio_grpc.leaving import all_closed, let_go
from service_runtime.asyncio_grpc.request_head import CallDetails
from service_runtime.asyncio_grpc.server_call import MethodHandler, ServerCall
from service_runtime.asyncio_grpc.server_connection import Limits, ServerConnection

__all__ = ["Limits", "Server"]

_BACKLOG: Final = 1024
_CLOSING_SECONDS: Final = 2.0
_HANDSHAKE_SECONDS: Final = 10.0


class Server:
    """Answers calls by the handlers that generated code adds to it."""

    def __init__(
        self, limits: Limits, interceptor: grpc.aio.ServerInterceptor | None = None
    ) -> None:
        self._limits = limits
        self._interceptor = interceptor
        self._methods: dict[str, MethodHandler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._connections: set[ServerConnection] = set()
        self._listener: asyncio.Server | None = None
        self.is_stopping = False

    # What generated code calls.

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add services."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, MethodHandler]
    ) -> None:
        """Add a service whose methods are known by name."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    # What connections call.

    def handler(self, details: CallDetails) -> MethodHandler | None:
        """Answer a method's handler, None where there is no such method."""
        found = self._methods.get(details.method)
        if found is not None:
            return found
        for generic in self._generic:
            found = generic.service(details)
            if found is not None:
                return found
        return None

    async def intercepted(self, call: ServerCall) -> MethodHandler | None:
        """Answer the handler that the interceptor has the call go to."""
        if self._interceptor is None:
            return call.handler

        async def go_on(_: grpc.HandlerCallDetails) -> MethodHandler | None:
            return call.handler

        return await self._interceptor.intercept_service(go_on, call.details_of_call)

    # What whoever runs it calls.

    async def listen(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, shares_port: bool = False
    ) -> int:
        """Take connections from now on; answer the port. Raises OSError where it is taken.

        `shares_port`: others of this machine may listen there too, and each takes a part.
        """
        listener = await asyncio.get_running_loop().create_server(
            lambda: ServerConnection(self, self._limits, self._connections),
            sock=_bound(host, port, shares_port=shares_port),
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else _HANDSHAKE_SECONDS,
            backlog=_BACKLOG,
        )
        self._listener = listener
        return int(listener.sockets[0].getsockname()[1])

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and give those that are here so long to end.

        May be asked again meanwhile; the shortest time counts.
        """
        self.is_stopping = True
        if self._listener is not None:
            self._listener.close()
        connections = list(self._connections)
        await let_go(connections, grace_seconds)
        await all_closed(connections, _CLOSING_SECONDS)


def _bound(host: str, port: int, *, shares_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening
