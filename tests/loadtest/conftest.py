"""A recommender that does what a test tells it, over the real wire protocol."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest
import trustme
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from tests.support.certificates import SERVER_NAME, Files


@dataclass
class ScriptedRecommender(pb2_grpc.RecommenderServiceServicer):
    """Answers at once, unless told otherwise."""

    source: int = pb2.SOURCE_PERSONALIZED
    code: grpc.StatusCode | None = None
    stall_seconds: float = 0.0
    """Once, at the first call, it stops answering everybody for so long."""
    port: int = 0
    tls_port: int = 0
    users: list[str] = field(default_factory=list)

    async def GetCandidates(self, request, context):  # noqa: N802 - gRPC's name
        self.users.append(request.user_id)
        if self.stall_seconds and len(self.users) == 1:
            threading.Event().wait(self.stall_seconds)  # the whole event loop, as a bad server does
        if self.code is not None:
            await context.abort(self.code, "told to")
        context.set_trailing_metadata((("server-timing", "history;dur=0.500, search;dur=2.000"),))
        return pb2.GetCandidatesResponse(article_ids=[1, 2], source=self.source, release=7)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Files:
    """Of the scripted recommender, and for its callers."""
    ca = trustme.CA()
    return Files(tmp_path_factory.mktemp("certificates")).write(ca.issue_cert(SERVER_NAME), ca)


@pytest.fixture
def scripted(certificates) -> Iterator[ScriptedRecommender]:
    recommender = ScriptedRecommender()
    ready, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb2_grpc.add_RecommenderServiceServicer_to_server(recommender, server)
        recommender.port = server.add_insecure_port("127.0.0.1:0")
        recommender.tls_port = server.add_secure_port(
            "127.0.0.1:0", certificates.server_credentials()
        )
        await server.start()
        ready.set()
        await asyncio.to_thread(ended.wait)
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield recommender
    ended.set()
    thread.join()
