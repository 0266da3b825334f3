import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.processes import Process
from local_stack.redis import start_redis
from recommender.config import RecommenderSettings
from recommender.server import running_recommender
from tests.support.backends import ScriptedFaiss, ScriptedModel, listening


@dataclass
class Redis:
    process: Process
    url: str


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory) -> Iterator[Redis]:
    directory = tmp_path_factory.mktemp("redis")
    process, url = start_redis(directory, directory / "redis.log")
    yield Redis(process, url)
    process.stop()


@dataclass
class Asked:
    """A recommender that listens, and the two backends behind it."""

    channel: grpc.aio.Channel
    model: ScriptedModel
    faiss: ScriptedFaiss | None
    metrics_port: int

    def __post_init__(self) -> None:
        self.stub = pb2_grpc.RecommenderServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def candidates(self, **fields) -> pb2.GetCandidatesResponse:
        request = pb2.GetCandidatesRequest(**{"user_id": "u", **fields})
        return await self.stub.GetCandidates(request, timeout=2)

    async def view(self, user_id: str, *articles: int) -> None:
        """Record views, oldest first."""
        views = [
            pb2.View(article_id=article, viewed_at_ms=1_000 + place)
            for place, article in enumerate(articles)
        ]
        await self.stub.RecordViews(pb2.RecordViewsRequest(user_id=user_id, views=views))

    async def until_serving(self) -> None:
        async for answer in self.health.Watch(health_pb2.HealthCheckRequest(), timeout=10):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Ask again until the recommender has noticed; its polls are nobody's event."""
        async with asyncio.timeout(10):
            while not await condition():
                await asyncio.sleep(0.01)


StartRecommender = Callable[..., Awaitable[Asked]]


@pytest.fixture
async def start_recommender(shared_redis) -> AsyncIterator[StartRecommender]:
    async with AsyncExitStack() as stack:

        async def start(
            *, models: list[ScriptedModel], faiss: list[ScriptedFaiss], **settings
        ) -> Asked:
            same_model_port = settings.pop("same_model_port", False)
            for model in models:
                await stack.enter_async_context(listening(model))
                if same_model_port:  # one name has one port
                    models[-1].port = model.port
            await stack.enter_async_context(listening(*faiss))
            if same_model_port:
                settings["model_servers"] += f":{models[0].port}"
            defaults = {
                "redis_url": shared_redis.url,
                "model_servers": ",".join(backend.address for backend in models),
                "faiss_servers": ",".join(backend.address for backend in faiss),
                "poll_seconds": 0.02,
                "drain_notice_seconds": 0,
                "drain_seconds": 0.5,
            }
            recommender = await stack.enter_async_context(
                running_recommender(
                    RecommenderSettings(port=0, metrics_port=0, **{**defaults, **settings})
                )
            )
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{recommender.port}")
            )
            return Asked(channel, models[0], faiss[0] if faiss else None, recommender.metrics_port)

        yield start


@pytest.fixture
async def asked(start_recommender) -> Asked:
    asked = await start_recommender(models=[ScriptedModel()], faiss=[ScriptedFaiss()])
    await asked.until_serving()
    return asked
