"""Golden histories asked of a recommender in service: what passes, and what speaks against one."""

import asyncio
from pathlib import Path

import grpc
import pytest
import trustme
from recsys.recommender.v1 import recommender_service_pb2 as messages
from recsys.recommender.v1 import recommender_service_pb2_grpc as stubs

from pipeline.errors import GoldenError, RolloutError
from pipeline.rollout import RecommenderTls, replay_goldens
from releases.store import ReleaseStore
from tests.pipeline.rollout.conftest import EXPECTED, ScriptedRecommender, checking
from tests.support.certificates import SERVER_NAME, Files


async def test_what_passes_is_asked_again(
    store: ReleaseStore, recommender: ScriptedRecommender
) -> None:
    recommender.refusals = [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]
    recommender.answers = {8: EXPECTED}
    await asyncio.to_thread(checking(recommender), store.manifest(8))
    assert len(recommender.asked) == 5


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, GoldenError),
        (grpc.StatusCode.UNAVAILABLE, RolloutError),
        (grpc.StatusCode.UNIMPLEMENTED, RolloutError),
    ],
)
async def test_only_a_refusal_of_the_release_speaks_against_it(
    store: ReleaseStore,
    recommender: ScriptedRecommender,
    code: grpc.StatusCode,
    error: type[Exception],
) -> None:
    recommender.refusals = [code] * 100
    with pytest.raises(error, match=f"golden history 0 of release 8 was refused: {code.name}"):
        await asyncio.to_thread(checking(recommender, seconds=0), store.manifest(8))


@pytest.mark.parametrize(
    ("reason", "calls"),
    [
        (messages.FALLBACK_REASON_UNKNOWN_HISTORY, 1),
        (messages.FALLBACK_REASON_MODEL_UNAVAILABLE, 2),
    ],
)
async def test_an_answer_without_the_model_is_none(
    store: ReleaseStore,
    recommender: ScriptedRecommender,
    reason: "messages.FallbackReason.ValueType",
    calls: int,
) -> None:
    recommender.answers, recommender.fallback = {8: EXPECTED}, reason
    name = messages.FallbackReason.Name(reason)
    with pytest.raises(GoldenError, match=f"was answered without the model: {name}"):
        await asyncio.to_thread(replay_goldens, recommender.address, store.manifest(8), 0.02, 0.03)
    assert len(recommender.asked) == calls


async def test_goldens_are_asked_by_tls_with_a_certificate(
    store: ReleaseStore, tmp_path: Path
) -> None:
    ca = trustme.CA()
    files = Files(tmp_path / "certificates").write(ca.issue_cert(SERVER_NAME), ca)
    scripted = ScriptedRecommender(answers={8: EXPECTED})
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    stubs.add_RecommenderServiceServicer_to_server(scripted, server)
    port = server.add_secure_port("127.0.0.1:0", files.server_credentials())
    await server.start()

    async def ask(tls: RecommenderTls | None) -> None:
        address, manifest = f"127.0.0.1:{port}", store.manifest(8)
        await asyncio.to_thread(replay_goldens, address, manifest, 0.0, 0.01, tls)

    await ask(RecommenderTls(files.ca, files.certificate, files.key, SERVER_NAME))
    assert len(scripted.asked) == 2
    for without in (None, RecommenderTls(files.ca, name=SERVER_NAME)):
        with pytest.raises(RolloutError, match="UNAVAILABLE"):
            await ask(without)
    with pytest.raises(RolloutError, match=r"missing\.pem: No such file"):
        await ask(RecommenderTls(tmp_path / "missing.pem"))
    assert len(scripted.asked) == 2
    await server.stop(0)
