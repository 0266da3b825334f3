"""Puts the faiss server together."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress

from recsys.faiss.v1 import faiss_service_pb2 as pb
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb_grpc

from faiss_server.config import FaissServerSettings
from faiss_server.follow import looking, looks_of
from faiss_server.holder import RESIDENT_RELEASES, ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.metrics import FaissServerMetrics
from faiss_server.recall_watch import RecallWatch
from faiss_server.report import ServingReporter
from faiss_server.service import FaissService
from faiss_server.servicer import FaissServicer
from faiss_server.taken_down import TakeDownStore, TakenDown, TakenDownArticles
from releases.errors import ReleaseError
from releases.layout import Part
from releases.serving import REPORT_SECONDS, current_reports, releases_in_use
from releases.store import ReleaseStore
from releases.sync import Mirror
from service_runtime.errors import StartupError
from service_runtime.metrics import new_registry
from service_runtime.process import settle_memory
from service_runtime.redis_access import check_access
from service_runtime.server import RunningServer, Services, running_server

__all__ = ["serve"]

_NOTICE_SECONDS = 1.0
"""After a withdrawal; recommenders ask for the status four times a second."""
_TAKEN_DOWN_SECONDS = 0.25
"""How often Redis is asked for what is taken down; recommenders ask as often for what is known."""
_TAKEN_DOWN_FILE = "taken_down.json"
_NOTHING = TakenDown()
_NAME = pb.DESCRIPTOR.services_by_name["FaissService"].full_name


async def serve(settings: FaissServerSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; SERVING whenever a release is ready.

    Raises StartupError where a port is taken, or neither store nor local directory can be read.
    """
    in_use = ReleasesInUse()
    store, mirror = await asyncio.to_thread(_open_store, settings, in_use)
    registry = new_registry()
    metrics = FaissServerMetrics(registry)
    changed = asyncio.Event()

    def on_taken_down() -> None:
        holder.leave_out_what_is_taken_down()

    taken_down = _taken_down(settings, metrics, on_taken_down)
    holder = ReleaseHolder(
        store, mirror, settings.local_dir, metrics, _setter(changed), in_use.in_use,
        notice_seconds=_NOTICE_SECONDS,
        taken_down=lambda: (
            _NOTHING if taken_down is None else taken_down.after_first_look()
        ).article_ids,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        if taken_down is not None:
            looks = {"follow-taken-down": lambda _: taken_down.look()}
            await stack.enter_async_context(looking(looks, metrics, _TAKEN_DOWN_SECONDS))
        executor = ThreadPoolExecutor(settings.search_threads, thread_name_prefix="search")
        stack.callback(executor.shutdown, cancel_futures=True)
        watch = stack.enter_context(RecallWatch(metrics, settings.recall_sample_share))
        servicer = FaissServicer(
            FaissService(holder, executor, metrics, in_use, watch, taken_down),
            settings.default_deadline_seconds,
        )
        services = Services(
            register=lambda server: pb_grpc.add_FaissServiceServicer_to_server(servicer, server),
            names=(_NAME,),
            status_methods=frozenset({f"/{_NAME}/GetStatus"}),
        )
        await stack.enter_async_context(looking(looks_of(holder), metrics, settings.poll_seconds))
        reporter = ServingReporter(store, holder, in_use)
        if settings.report_serving:
            # Entered before the server, so that it is taken back after the last answer.
            reports = {"report-serving": reporter.report}
            await stack.enter_async_context(
                looking(
                    reports,
                    metrics,
                    min(settings.poll_seconds, REPORT_SECONDS),
                    at_end=reporter.take_back,
                )
            )
        running = await stack.enter_async_context(running_server(settings, services, registry))
        # The same after a restart: host (a container's id), address, port.
        reporter.begin(f"{socket.gethostname()}-{settings.host}-{running.port}")
        running.background.start(_follow_health(running, holder, changed))
        settle_memory()
        await running.background.run_until(stop)


def _open_store(
    settings: FaissServerSettings, in_use: ReleasesInUse
) -> tuple[ReleaseStore, Mirror]:
    try:
        settings.local_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"FAISS_SERVER_LOCAL_DIR: {settings.local_dir}: {error.strerror}"
        ) from error
    try:
        store = ReleaseStore(settings.store)
    except ReleaseError as error:
        raise StartupError(f"FAISS_SERVER_STORE: {error}") from error
    mirror = Mirror(
        store,
        settings.local_dir,
        [Part.INDEX],
        keep=RESIDENT_RELEASES,
        in_use=in_use.in_use,
        stagger_seconds=settings.stagger_seconds,
    )
    try:
        store.listing()
        # Until callers have said so themselves: what is answered from is not to make room at once.
        in_use.tell(releases_in_use(current_reports(store)), ())
    except ReleaseError as error:
        # With releases on local disk a store that is away is no reason not to serve them.
        if not mirror.local():
            raise StartupError(f"FAISS_SERVER_STORE: {error}") from error
    return store, mirror


def _taken_down(
    settings: FaissServerSettings, metrics: FaissServerMetrics, on_change: Callable[[], object]
) -> TakenDownArticles | None:
    if settings.redis_url is None:
        return None
    url, cluster = settings.redis_url.get_secret_value(), settings.redis_cluster
    file = settings.redis_credentials_file
    check_access("FAISS_SERVER_", url, file)

    def connect() -> TakeDownStore:
        from faiss_server.taken_down_redis import RedisTakeDowns  # noqa: PLC0415 - in its thread

        return RedisTakeDowns(url, cluster=cluster, credentials_file=file)

    return TakenDownArticles(connect, settings.local_dir / _TAKEN_DOWN_FILE, metrics, on_change)


def _setter(changed: asyncio.Event) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def set_from_thread() -> None:
        # The loop may have ended before a thread that waits for the store.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(changed.set)

    return set_from_thread


async def _follow_health(
    running: RunningServer, holder: ReleaseHolder, changed: asyncio.Event
) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await running.set_serving(serving=bool(holder.held.ready))
