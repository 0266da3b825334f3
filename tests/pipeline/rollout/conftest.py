"""A recommender that answers what it is told to, and a store with two releases."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as messages
from recsys.recommender.v1 import recommender_service_pb2_grpc as stubs

from pipeline.rollout import replay_goldens
from releases.publish import publish
from releases.store import ReleaseStore
from tests.support.releases import manifest_of, stage_files, tiny_files

EXPECTED = (10, 11, 12, 13)


@dataclass
class ScriptedRecommender(stubs.RecommenderServiceServicer):
    """Answers whatever a test tells it to, over the wire."""

    address: str = ""
    answers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By release; one that is not here is not in service."""
    refusals: list[grpc.StatusCode] = field(default_factory=list)
    """Of the next calls."""
    fallback: "messages.FallbackReason.ValueType" = messages.FALLBACK_REASON_UNSPECIFIED
    asked: list[messages.GetCandidatesRequest] = field(default_factory=list)

    async def GetCandidates(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.asked.append(request)
        if self.refusals:
            await context.abort(self.refusals.pop(0), "told to refuse")
        if request.release not in self.answers:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not in service")
        ids = self.answers[request.release]
        fell_back = self.fallback != messages.FALLBACK_REASON_UNSPECIFIED
        return messages.GetCandidatesResponse(
            article_ids=ids,
            scores=[1.0] * len(ids),
            release=request.release,
            source=messages.SOURCE_POPULAR if fell_back else messages.SOURCE_PERSONALIZED,
            fallback_reason=self.fallback,
        )


@pytest.fixture
async def recommender() -> AsyncIterator[ScriptedRecommender]:
    scripted = ScriptedRecommender()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    stubs.add_RecommenderServiceServicer_to_server(scripted, server)
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield scripted
    await server.stop(0)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    place = ReleaseStore(str(tmp_path / "store"))
    for release in (7, 8):
        staging = tmp_path / f"staging-{release}"
        stage_files(staging, tiny_files(release))
        goldens = [
            {"history": [newest, 1], "expected_article_ids": EXPECTED, "min_overlap": 0.7}
            for newest in (2, 3)
        ]
        publish(place, staging, manifest_of(staging, release, golden_histories=goldens), wait=None)
    return place


def checking(recommender: ScriptedRecommender, seconds: float = 10.0) -> Callable[[Any], None]:
    return lambda manifest: replay_goldens(
        recommender.address, manifest, seconds, retry_seconds=0.01
    )
