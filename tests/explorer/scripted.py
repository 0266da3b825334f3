"""The parts as a test wants them, over the real wire protocols, with health services."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2
from recsys.faiss.v1 import faiss_service_pb2_grpc as faiss_grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from recsys.tfserving.v1 import model_status_pb2

OLD, NEW = 1_795_700_000, 1_795_743_200


@dataclass
class Scripted:
    """A part that listens; `credentials` make it speak TLS."""

    health: int | None = health_pb2.HealthCheckResponse.SERVING
    """None: it has no health service, as TensorFlow Serving."""
    credentials: grpc.ServerCredentials | None = None
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def register(self, server: grpc.aio.Server) -> None:
        if self.health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(_Health(self), server)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    def __init__(self, part: Scripted) -> None:
        self._part = part

    async def Check(self, request, context):  # noqa: N802 - the contract's name
        return health_pb2.HealthCheckResponse(status=self._part.health)


@dataclass
class ScriptedRecommender(Scripted, pb2_grpc.RecommenderServiceServicer):
    """Has an answer for each release; the pinned one is the newest."""

    rankings: dict[int, list[int]] = field(
        default_factory=lambda: {OLD: [1, 2, 3, 4], NEW: [2, 1, 4, 9]}
    )
    views: list[int] = field(default_factory=lambda: [7, 8])
    viewed_at_ms: int = 1_700_000_000_000
    timing: str = "history;dur=0.500, user_vector;dur=2.000, search;dur=1.000"
    fields: dict = field(default_factory=dict)
    """Of the answer, beside or instead of what is usual."""
    code: grpc.StatusCode | None = None
    history_code: grpc.StatusCode | None = None
    hang: bool = False
    asked: list[pb2.GetCandidatesRequest] = field(default_factory=list)

    async def GetCandidates(self, request, context):  # noqa: N802 - the contract's name
        self.asked.append(request)
        if self.hang:
            await asyncio.Event().wait()
        if self.code is not None:
            await context.abort(self.code, "told to <fail>")
        release = request.release if request.HasField("release") else max(self.rankings)
        if release not in self.rankings:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"release {release} is not in service"
            )
        context.set_trailing_metadata((("server-timing", self.timing),))
        ids = self.rankings[release]
        usual = {
            "article_ids": ids,
            "scores": [10.0 - place for place in range(len(ids))],
            "release": release,
            "source": pb2.SOURCE_PERSONALIZED,
        }
        return pb2.GetCandidatesResponse(**(usual | self.fields))

    async def GetHistory(self, request, context):  # noqa: N802 - the contract's name
        if self.history_code is not None:
            await context.abort(self.history_code, "Redis is away")
        views = [
            pb2.View(article_id=article, viewed_at_ms=self.viewed_at_ms) for article in self.views
        ]
        return pb2.GetHistoryResponse(views=views)

    def register(self, server: grpc.aio.Server) -> None:
        super().register(server)
        pb2_grpc.add_RecommenderServiceServicer_to_server(self, server)


@dataclass
class ScriptedFaiss(Scripted, faiss_grpc.FaissServiceServicer):
    """Holds releases in the states it is told."""

    releases: dict[int, int] = field(
        default_factory=lambda: dict.fromkeys((NEW, OLD), faiss_pb2.RELEASE_STATE_READY)
    )

    async def GetStatus(self, request, context):  # noqa: N802 - the contract's name
        return faiss_pb2.GetStatusResponse(
            releases=[
                faiss_pb2.ReleaseStatus(
                    release=release, state=state, article_count=1500, index_type="IVF4,Flat"
                )
                for release, state in self.releases.items()
            ]
        )

    def register(self, server: grpc.aio.Server) -> None:
        super().register(server)
        faiss_grpc.add_FaissServiceServicer_to_server(self, server)


@dataclass
class ScriptedModel(Scripted):
    """Has versions in the states it is told."""

    versions: dict[int, int] = field(
        default_factory=lambda: dict.fromkeys(
            (NEW, OLD), model_status_pb2.ModelVersionStatus.AVAILABLE
        )
    )

    async def status(self, request, context):
        version = model_status_pb2.ModelVersionStatus
        return model_status_pb2.GetModelStatusResponse(
            model_version_status=[
                version(version=number, state=state) for number, state in self.versions.items()
            ]
        )

    def register(self, server: grpc.aio.Server) -> None:
        super().register(server)
        handler = grpc.unary_unary_rpc_method_handler(
            self.status,
            model_status_pb2.GetModelStatusRequest.FromString,
            model_status_pb2.GetModelStatusResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "tensorflow.serving.ModelService", {"GetModelStatus": handler}
                ),
            )
        )


@asynccontextmanager
async def listening(*parts: Scripted) -> AsyncIterator[None]:
    """Serve each part on a port of its own, which it then knows."""
    servers = []
    for part in parts:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        part.register(server)
        if part.credentials is None:
            part.port = server.add_insecure_port("127.0.0.1:0")
        else:
            part.port = server.add_secure_port("127.0.0.1:0", part.credentials)
        await server.start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            await server.stop(None)
