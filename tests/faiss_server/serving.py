"""Runs the server inside a test, and speaks to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from recsys.faiss.v1 import faiss_service_pb2 as pb
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb_grpc

from faiss_server.config import FaissServerSettings
from faiss_server.server import serve
from releases.store import ReleaseStore

__all__ = [
    "NOT_SERVING",
    "SERVED",
    "SERVING",
    "RunningFaissServer",
    "good_search",
    "language_filter",
    "packed",
    "random_vectors",
    "request_of",
    "rows_of_response",
    "running",
    "until_health",
]

SERVED = 1_700_000_201
"""The release of the `server` fixture."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class RunningFaissServer:
    port: int
    metrics_port: int
    channel: grpc.aio.Channel

    @property
    def faiss(self) -> Any:
        return pb_grpc.FaissServiceStub(self.channel)

    async def until_ready(self, release: int) -> None:
        """Wait until the server says that it holds the release."""
        async with asyncio.timeout(10):
            while True:
                answer = await self.faiss.GetStatus(pb.GetStatusRequest())
                ready = [s.release for s in answer.releases if s.state == pb.RELEASE_STATE_READY]
                if release in ready:
                    return
                await asyncio.sleep(0.005)


async def until_health(channel: grpc.aio.Channel, status: int, service: str = "") -> None:
    """Wait until a health check answers `status`."""
    request = health_pb2.HealthCheckRequest(service=service)
    async with asyncio.timeout(10):
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(request):
            if answer.status == status:
                return


@asynccontextmanager
async def running(
    store: ReleaseStore, folder: Path, **changed: Any
) -> AsyncIterator[RunningFaissServer]:
    """Serve a store on a free port for as long as the context is open."""
    ready_file = folder / "ready.json"
    values: dict[str, Any] = {
        "port": 0,
        "metrics_port": 0,
        "store": store.url,
        "local_dir": folder / "local",
        "poll_seconds": 0.02,
        "ready_file": ready_file,
    }
    stop = asyncio.Event()
    served = asyncio.create_task(serve(FaissServerSettings(**values | changed), stop))
    while not ready_file.exists() and not served.done():
        await asyncio.sleep(0.005)
    if served.done():
        await served
    ports = json.loads(ready_file.read_text())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['port']}") as channel:
            yield RunningFaissServer(ports["port"], ports["metrics_port"], channel)
    finally:
        stop.set()
        await served
        ready_file.unlink()


def random_vectors(seed: int, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 8), dtype=np.float32)


def packed(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def language_filter(*values: int, operator: Any = pb.FILTER_OPERATOR_IN) -> pb.AttributeFilter:
    return pb.AttributeFilter(attribute="language", operator=operator, values=values)


def good_search(**changed: Any) -> pb.SearchRequest:
    """A request with nothing wrong but what `changed` says."""
    fields: dict[str, Any] = {"release": SERVED, "vectors": bytes(32), "k": 10}
    return pb.SearchRequest(**fields | changed)


def request_of(release: int, vectors: NDArray[np.float32], k: int, **fields: Any) -> Any:
    """Make a search request."""
    return pb.SearchRequest(release=release, vectors=vectors.tobytes(), k=k, **fields)


def rows_of_response(
    response: pb.SearchResponse,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Unpack ids and scores of each row."""
    ids, scores = np.frombuffer(response.ids, "<i8"), np.frombuffer(response.scores, "<f4")
    assert ids.size == scores.size == sum(response.counts)
    ends = np.cumsum(response.counts)[:-1]
    return list(zip(np.split(ids, ends), np.split(scores, ends), strict=True))
