"""The recommender and its backends by TLS, each with a certificate of its own."""

import grpc
import pytest
import trustme
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from service_runtime.errors import StartupError
from service_runtime.tls import server_tls
from tests.support.backends import ScriptedFaiss, ScriptedModel
from tests.support.certificates import SERVER_NAME, Files
from tests.support.servers import Settings


@pytest.fixture
def ca():
    return trustme.CA()


@pytest.fixture
def own(tmp_path, ca):
    return Files(tmp_path / "recommender").write(ca.issue_cert("recommender.internal"), ca)


@pytest.fixture
def backends(tmp_path, ca):
    """A model server and a faiss server that want to see a certificate."""
    files = Files(tmp_path / "backend").write(ca.issue_cert(SERVER_NAME), ca)
    settings = Settings(
        port=0, metrics_port=0, tls_cert_file=files.certificate, tls_key_file=files.key,
        tls_client_ca_file=files.ca,
    )  # fmt: skip
    return [
        kind(credentials=server_tls(settings).credentials())
        for kind in (ScriptedModel, ScriptedFaiss)
    ]


def by_tls(files: Files, **more) -> dict[str, object]:
    return {
        "backend_tls_ca_file": files.ca,
        "backend_tls_cert_file": files.certificate,
        "backend_tls_key_file": files.key,
        "backend_tls_name": SERVER_NAME,
        "resolve_seconds": 0.05,
        **more,
    }


def first_of(chain: bytes) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    return chain[: chain.index(end) + len(end)]


async def test_backends_are_asked_by_tls(start_recommender, backends, own):
    model, faiss = backends
    asked = await start_recommender(models=[model], faiss=[faiss], **by_tls(own))
    await asked.until_serving()
    answer = await asked.candidates(recent_article_ids=[5, 6])
    assert answer.source == pb2.SOURCE_PERSONALIZED
    assert model.shown == faiss.shown == {first_of(own.certificate.read_bytes())}


async def test_without_a_certificate_no_backend_is_ever_asked(start_recommender, backends, own):
    model, faiss = backends
    nothing = {"backend_tls_cert_file": None, "backend_tls_key_file": None}
    asked = await start_recommender(models=[model], faiss=[faiss], **by_tls(own, **nothing))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(recent_article_ids=[5, 6])
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert model.calls == faiss.calls == 0


async def test_a_new_certificate_is_shown_without_a_worse_answer(
    start_recommender, backends, own, ca
):
    model, faiss = backends
    asked = await start_recommender(models=[model], faiss=[faiss], **by_tls(own))
    await asked.until_serving()
    await asked.candidates(recent_article_ids=[5, 6])
    model.shown.clear()
    faiss.shown.clear()
    own.write(ca.issue_cert("recommender.internal"), ca)
    new = first_of(own.certificate.read_bytes())

    async def both_saw_it() -> bool:
        answer = await asked.candidates(recent_article_ids=[5, 6])
        assert answer.source == pb2.SOURCE_PERSONALIZED
        return new in model.shown & faiss.shown

    await asked.until(both_saw_it)


async def test_a_certificate_that_no_backend_takes_changes_nothing(
    start_recommender, backends, own, ca, caplog
):
    model, faiss = backends
    asked = await start_recommender(models=[model], faiss=[faiss], **by_tls(own))
    await asked.until_serving()
    own.write(trustme.CA().issue_cert("recommender.internal"), ca)

    async def was_told() -> bool:
        answer = await asked.candidates(recent_article_ids=[5, 6])
        assert answer.source == pb2.SOURCE_PERSONALIZED
        told = [line for line in caplog.messages if "new certificate: " in line]
        return any("model server" in line for line in told) and any(
            "faiss server" in line for line in told
        )

    await asked.until(was_told)


async def test_a_certificate_without_the_ca_stops_the_start(start_recommender, own):
    settings = by_tls(own, backend_tls_ca_file=None)
    with pytest.raises(StartupError, match="needs BACKEND_TLS_CA_FILE too"):
        await start_recommender(models=[ScriptedModel()], faiss=[ScriptedFaiss()], **settings)
