"""Parts that are spoken to by TLS only, and want to know who asks."""

from collections.abc import AsyncIterator

import grpc
import pytest
import trustme

from tests.explorer.conftest import Parts, browsing
from tests.explorer.reading import states
from tests.explorer.scripted import listening
from tests.support.certificates import SERVER_NAME, Files


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secured(ca) -> AsyncIterator[Parts]:
    leaf = ca.issue_cert(SERVER_NAME)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(leaf.private_key_pem.bytes(), chain)], ca.cert_pem.bytes(), require_client_auth=True
    )
    parts = Parts()
    for part in (parts.recommender, parts.faiss, parts.model):
        part.credentials = credentials
    async with listening(parts.recommender, parts.faiss, parts.model):
        yield parts


async def test_it_shows_its_certificate_and_checks_theirs(secured, ca, tmp_path):
    own = Files(tmp_path / "own").write(ca.issue_cert("explorer.internal"), ca)
    tls = {"tls_ca_file": own.ca, "tls_cert_file": own.certificate, "tls_key_file": own.key}
    async with browsing(secured.settings(**tls, tls_name=SERVER_NAME)) as client:
        answer = await client.get("/?user=u1")
    assert answer.status_code == 200
    assert set(states(answer.text).values()) == {"serving"}
    async with browsing(secured.settings(**tls)) as client:  # theirs are not for 127.0.0.1
        assert states((await client.get("/health")).text)["faiss server"] == "down"


async def test_another_cas_servers_are_not_spoken_to(secured, tmp_path):
    other = trustme.CA()
    own = Files(tmp_path / "own").write(other.issue_cert("explorer.internal"), other)
    tls = {"tls_ca_file": own.ca, "tls_cert_file": own.certificate, "tls_key_file": own.key}
    async with browsing(secured.settings(**tls, tls_name=SERVER_NAME)) as client:
        answer = await client.get("/?user=u1")
    assert answer.status_code == 502
    assert "serving" not in states(answer.text).values()
