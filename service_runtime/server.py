"""A gRPC server with health, reflection, metrics and an orderly end."""

from __future__ import annotations  # Tracing is a name for the type checker only

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry

from service_runtime.background import BackgroundTasks
from service_runtime.cloudwatch import tell_load
from service_runtime.errors import StartupError
from service_runtime.interceptor import CallInterceptor
from service_runtime.metrics import CallMetrics, metrics_endpoint
from service_runtime.settings import ServerSettings
from service_runtime.transports import GrpcServer, new_server

if TYPE_CHECKING:
    from service_runtime.opentelemetry_traces import Tracing

__all__ = ["RunningServer", "Services", "announce", "running_server"]

logger = logging.getLogger(__name__)

_LAST_WRITES_SECONDS = 0.1
_PUBLISH_SECONDS = 1.0


@dataclass(frozen=True)
class Services:
    """What a server serves."""

    register: Callable[[grpc.aio.Server], None]
    names: tuple[str, ...]
    """Full names, for health."""
    status_methods: frozenset[str] = frozenset()
    """Paths (`/package.Service/Method`) by which callers learn what this server can be asked for:
    never refused for load, and refused as soon as draining begins, so that callers go elsewhere
    while everything else is still answered."""
    leaf: bool = True
    """Whether this server calls no other; then late calls mean that it has too many."""
    reflected: bool = True
    """Whether `names` can be described by reflection (they are in protobuf's default pool)."""


class RunningServer:
    """A listening server; NOT_SERVING until told otherwise."""

    def __init__(
        self,
        server: GrpcServer,
        interceptor: CallInterceptor,
        names: tuple[str, ...],
        metrics_port: int,
        background: BackgroundTasks,
    ) -> None:
        self.port = 0
        self.metrics_port = metrics_port
        self.background = background
        """What goes on beside the calls, until the last of them has ended: whoever runs the server
        watches it by `run_until`."""
        self._server = server
        self._interceptor = interceptor
        self._names = ("", *names)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server.services)

    async def listen(self, port: int) -> None:
        """Take calls, on `port` or, where that is 0, a free one. Raises StartupError."""
        # Before the start: grpc's health servicer would come up as SERVING.
        await self.set_serving(serving=False)
        self.port = await self._server.listen(port)

    async def set_serving(self, *, serving: bool) -> None:
        """Change what health checks answer, for the server and each of its services."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in self._names:
            await self._health.set(name, status)

    async def drain(self, notice_seconds: float, grace_seconds: float) -> None:
        """Give notice, then take no new calls, then let those in flight end.

        During the notice health is NOT_SERVING and calls are still answered: callers that watch
        health or status leave without a failed call.
        """
        self._interceptor.give_notice()
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(notice_seconds)
        stopped = asyncio.create_task(self._server.stop(grace_seconds))
        idle = asyncio.create_task(self._interceptor.wait_until_idle())
        await asyncio.wait({stopped, idle}, return_when=asyncio.FIRST_COMPLETED)
        # Health watchers would hold the server for the whole of the grace; give the last answers
        # a moment to be written, then hang up. Of several graces the shortest counts.
        await self._server.stop(min(grace_seconds, _LAST_WRITES_SECONDS))
        await stopped
        idle.cancel()


class OneOfSeveral(Protocol):
    """What a server has to do otherwise when others share its `port`."""

    port: int

    def listens(self) -> None:
        """Tell that calls can arrive."""


@asynccontextmanager
async def running_server(
    settings: ServerSettings,
    services: Services,
    registry: CollectorRegistry,
    worker: OneOfSeveral | None = None,
) -> AsyncIterator[RunningServer]:
    """Listen for as long as the context is open; leaving it drains.

    Whoever started a `worker` sees to the metrics endpoint and to telling the ports.
    Raises StartupError when a port is taken or a certificate cannot be used.
    """
    metrics = CallMetrics(registry, shared=worker is not None)
    tracing = _tracing(settings, services)
    interceptor = CallInterceptor(
        metrics,
        max_concurrent_calls=settings.max_concurrent_calls,
        slow_call_seconds=settings.slow_call_seconds,
        status_methods=services.status_methods,
        leaf=services.leaf,
        tracing=tracing,
    )
    server = new_server(settings, interceptor, shares_port=worker is not None)
    services.register(server.services)
    _describe(services, server)
    async with AsyncExitStack() as stack:
        if tracing is not None:
            # Last of all, when every call has ended; it may wait for the collector.
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        background = await stack.enter_async_context(BackgroundTasks())
        if settings.cloudwatch_metrics_seconds:
            background.start(_tell_cloudwatch(settings, metrics, services.status_methods))
        metrics_port = 0
        if worker is None:
            metrics_port = stack.enter_context(
                metrics_endpoint(settings.host, settings.metrics_port, registry)
            )
        else:
            background.start(_publish(metrics))
        running = RunningServer(server, interceptor, services.names, metrics_port, background)
        await running.listen(settings.port if worker is None else worker.port)
        try:
            if worker is None:
                announce(settings.ready_file, running.port, metrics_port)
            else:
                worker.listens()
            yield running
        finally:
            logger.info("draining")
            await running.drain(settings.drain_notice_seconds, settings.drain_seconds)


def _describe(services: Services, server: GrpcServer) -> None:
    """Let tools such as grpcurl ask what there is to call."""
    names = (
        *(services.names if services.reflected else ()),
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        ReflectionServicer(names), server.services
    )


def _tracing(settings: ServerSettings, services: Services) -> Tracing | None:
    if settings.traces_endpoint is None:
        return None
    try:
        from service_runtime.opentelemetry_traces import Tracing  # noqa: PLC0415 - only when asked
    except ImportError as error:
        raise StartupError(
            f"TRACES_ENDPOINT: {error.name} is missing; install recsys-serving[tracing]"
        ) from error
    # A trace begins where users' calls arrive: others would be without their beginning.
    sample_ratio = 0.0 if services.leaf else settings.traces_sample_ratio
    return Tracing(settings.traces_endpoint, settings.service_name, sample_ratio)


async def _tell_cloudwatch(
    settings: ServerSettings, metrics: CallMetrics, status_methods: frozenset[str]
) -> None:
    # Status calls grow with the number of recommenders, and not with the work.
    await tell_load(
        {
            "Service": settings.service_name,
            **({"Stack": settings.cloudwatch_stack} if settings.cloudwatch_stack else {}),
        },
        lambda: metrics.busy_seconds(status_methods),
        metrics.calls_shed,
        settings.cloudwatch_metrics_seconds,
    )


async def _publish(metrics: CallMetrics) -> None:
    while True:
        metrics.publish()
        await asyncio.sleep(_PUBLISH_SECONDS)


def announce(ready_file: Path | None, port: int, metrics_port: int) -> None:
    """Log the ports, and write them to the ready file, if any; raises StartupError."""
    ports = {"port": port, "metrics_port": metrics_port}
    logger.info("listening", extra=ports)
    if ready_file is not None:
        partial = ready_file.with_name(ready_file.name + ".partial")
        try:
            partial.write_text(
                json.dumps({"port": port, "metrics_port": metrics_port, "pid": os.getpid()})
            )
            partial.rename(ready_file)
        except OSError as error:
            raise StartupError(f"READY_FILE: {ready_file}: {error.strerror}") from error
