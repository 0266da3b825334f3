"""Builds the recommender from its settings, and runs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from recommender.addresses import (
    Addresses,
    LookUp,
    Target,
    dns_look_up,
    parse_targets,
    system_look_up,
)
from recommender.backends import Retriever, UserTower
from recommender.clients import FaissClient, ModelClient
from recommender.config import RecommenderSettings
from recommender.fleet import Fleet
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis
from recommender.service import RecommenderService
from recommender.servicer import RecommenderServicer
from recommender.tracker import ReleaseTracker
from service_runtime.channels import open_channel
from service_runtime.errors import StartupError
from service_runtime.metrics import new_registry
from service_runtime.process import settle_memory
from service_runtime.redis_access import check_access
from service_runtime.server import RunningServer, Services, running_server
from service_runtime.tls import CallerTls, TlsFiles
from service_runtime.workers import Worker, run_workers

__all__ = ["running_recommender", "serve"]

SERVICE = pb2.DESCRIPTOR.services_by_name["RecommenderService"].full_name


async def serve(settings: RecommenderSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain.

    Raises StartupError when a port is taken or a setting cannot be used.
    """
    if settings.workers > 1:
        await run_workers(settings, settings.workers, _serve, stop)
    else:
        await _serve(settings, stop)


async def _serve(
    settings: RecommenderSettings, stop: asyncio.Event, worker: Worker | None = None
) -> None:
    async with running_recommender(settings, worker) as running:
        settle_memory()
        await running.background.run_until(stop)


@asynccontextmanager
async def running_recommender(
    settings: RecommenderSettings, worker: Worker | None = None
) -> AsyncIterator[RunningServer]:
    """Listen for as long as the context is open; leaving it drains.

    NOT_SERVING until the first release is pinned, by each `worker` where there are several.
    Raises StartupError like `serve`.
    """
    registry = new_registry()
    tracker = ReleaseTracker(registry)
    async with AsyncExitStack() as stack:
        history = _history(settings, stack)
        models, indexes = _fleets(settings, tracker)
        service = RecommenderService(
            history, models, indexes, tracker, registry, settings.max_batch
        )
        servicer = RecommenderServicer(
            service, settings.default_deadline_seconds, settings.reserve_fraction
        )
        services = Services(
            lambda server: pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, server),
            (SERVICE,),
            leaf=False,
        )
        running = await stack.enter_async_context(
            running_server(settings, services, registry, worker)
        )
        running.background.start(
            models.run(),
            indexes.run(),
            tracker.run(models, indexes),
            _announce_first_pin(tracker, running, worker),
        )
        yield running


async def _announce_first_pin(
    tracker: ReleaseTracker, running: RunningServer, worker: Worker | None
) -> None:
    await tracker.wait_for_first_pin()
    if worker is not None:
        await worker.all_ready()
    await running.set_serving(serving=True)


def _history(settings: RecommenderSettings, stack: AsyncExitStack) -> RedisHistory:
    url, file = settings.redis_url.get_secret_value(), settings.redis_credentials_file
    check_access("RECOMMENDER_", url, file)
    try:
        client = connect_redis(url, cluster=settings.redis_cluster, credentials_file=file)
    except ValueError as error:
        raise StartupError(f"RECOMMENDER_REDIS_URL: {error}") from error
    stack.push_async_callback(client.aclose)
    return RedisHistory(client, settings.history_ttl_seconds)


def _fleets(
    settings: RecommenderSettings, tracker: ReleaseTracker
) -> tuple[Fleet[UserTower], Fleet[Retriever]]:
    model_targets = parse_targets(settings.model_servers)
    faiss_targets = parse_targets(settings.faiss_servers)
    model_tls, faiss_tls = _tls(settings, model_targets), _tls(settings, faiss_targets)
    look_up: LookUp = system_look_up
    if settings.dns_server is not None:
        look_up = dns_look_up(*parse_targets(settings.dns_server))
    models: Fleet[UserTower] = Fleet(
        "model server",
        Addresses("model server", model_targets, look_up).now,
        lambda address: ModelClient(
            address, open_channel(address, settings.grpc_transport, model_tls), settings.model_name
        ),
        tracker.notice,
        poll_seconds=settings.poll_seconds,
        resolve_seconds=settings.resolve_seconds,
        tls=model_tls,
    )
    indexes: Fleet[Retriever] = Fleet(
        "faiss server",
        Addresses("faiss server", faiss_targets, look_up).now,
        lambda address: FaissClient(
            address,
            open_channel(address, settings.grpc_transport, faiss_tls),
            lambda: tracker.usage,
        ),
        tracker.notice,
        poll_seconds=settings.poll_seconds,
        resolve_seconds=settings.resolve_seconds,
        tls=faiss_tls,
    )
    return models, indexes


def _tls(settings: RecommenderSettings, targets: tuple[Target, ...]) -> CallerTls | None:
    """Make what a kind of backend is spoken to with; None: without TLS. Raises StartupError."""
    files = TlsFiles(
        settings.backend_tls_cert_file, settings.backend_tls_key_file, settings.backend_tls_ca_file
    )
    if files == TlsFiles():
        return None
    if files.ca is None:
        raise StartupError("RECOMMENDER_BACKEND_TLS_CERT_FILE: needs BACKEND_TLS_CA_FILE too")
    name = settings.backend_tls_name or targets[0].host
    return CallerTls(files, name, "RECOMMENDER_BACKEND_TLS_*_FILE")
