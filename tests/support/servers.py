"""A server with everything that servers share around calls, and whatever servicer a test has."""

from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2_grpc
from pydantic_settings import SettingsConfigDict
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from service_runtime.metrics import new_registry
from service_runtime.server import Services, running_server
from service_runtime.settings import ServerSettings

__all__ = ["SERVICE", "Settings", "calling", "serving"]

SERVICE = "recsys.recommender.v1.RecommenderService"


class Settings(ServerSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_SERVER_")


@asynccontextmanager
async def serving(servicer, registry=None, status_methods=frozenset(), *, leaf=True, **settings):
    """A server of RecommenderService on free ports, told by its settings."""
    services = Services(
        lambda server: pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, server),
        (SERVICE,),
        status_methods,
        leaf=leaf,
    )
    chosen = Settings(**{"port": 0, "metrics_port": 0, "drain_notice_seconds": 0, **settings})
    async with running_server(chosen, services, registry or new_registry()) as running:
        yield running


@asynccontextmanager
async def calling(running):
    """Stubs of its service and of its health."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield pb2_grpc.RecommenderServiceStub(channel), health_pb2_grpc.HealthStub(channel)
