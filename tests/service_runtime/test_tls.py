"""TLS as callers meet it: who is turned away, and certificates that change while all goes on."""

import asyncio
import logging
from datetime import UTC, datetime

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2

from service_runtime.channels import open_channel
from service_runtime.errors import StartupError
from service_runtime.metrics import new_registry
from service_runtime.server import Services, running_server
from service_runtime.tls import CallerTls
from tests.support.certificates import SERVER_NAME, Files
from tests.support.servers import Settings

NOTHING = Services(lambda _server: None, (), reflected=False)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "grpcio"])
def transport(request):
    """What the server speaks gRPC by."""
    return request.param


@pytest.fixture(params=["asyncio", "grpcio"])
def ask(request):
    """Answers what a new connection to a server comes to."""

    async def answer(server, tls: CallerTls | None) -> grpc.StatusCode:
        channel = open_channel(f"127.0.0.1:{server.port}", request.param, tls)
        try:
            await check(channel)
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            await channel.close(0)
        return grpc.StatusCode.OK

    return answer


@pytest.fixture
def listening(transport):
    """Makes a server of such files."""

    def make(files: Files, *, mutual: bool = False):
        settings = Settings(
            port=0, metrics_port=0, drain_notice_seconds=0, drain_seconds=1,
            grpc_transport=transport,
            tls_cert_file=files.certificate, tls_key_file=files.key,
            tls_client_ca_file=files.ca if mutual else None,
        )  # fmt: skip
        return running_server(settings, NOTHING, new_registry())

    return make


@pytest.fixture
def ca():
    return trustme.CA()


@pytest.fixture
def server_files(tmp_path, ca):
    return Files(tmp_path / "server").write(ca.issue_cert(SERVER_NAME), ca)


@pytest.fixture
def caller_files(tmp_path, ca):
    return Files(tmp_path / "caller").write(ca.issue_cert("recommender.internal"), ca)


async def check(channel) -> None:
    method = channel.unary_unary(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString
    )
    await method(health_pb2.HealthCheckRequest(), timeout=3)


async def test_only_callers_that_know_the_ca_and_the_name_get_through(
    server_files, caller_files, tmp_path, listening, ask
):
    stranger = Files(tmp_path / "stranger").write(None, trustme.CA())
    async with listening(server_files) as server:
        assert await ask(server, caller_files.caller(shows=False)) is grpc.StatusCode.OK
        for tls in (
            None,
            stranger.caller(shows=False),
            caller_files.caller(shows=False, name="other.internal"),
        ):
            assert await ask(server, tls) is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_server_is_turned_away(caller_files, tmp_path, ca, listening, ask):
    expired = Files(tmp_path / "expired").write(ca.issue_cert(SERVER_NAME, not_after=PAST), ca)
    async with listening(expired) as server:
        assert await ask(server, caller_files.caller()) is grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_ca_every_caller_needs_a_certificate_of_it(
    server_files, caller_files, tmp_path, ca, listening, ask
):
    other = trustme.CA()
    of_another_ca = Files(tmp_path / "other").write(other.issue_cert("recommender.internal"), ca)
    expired = Files(tmp_path / "expired").write(
        ca.issue_cert("recommender.internal", not_after=PAST), ca
    )
    async with listening(server_files, mutual=True) as server:
        assert await ask(server, caller_files.caller()) is grpc.StatusCode.OK
        for tls in (
            None,
            caller_files.caller(shows=False),
            of_another_ca.caller(),
            expired.caller(),
        ):
            assert await ask(server, tls) is grpc.StatusCode.UNAVAILABLE


async def test_a_replaced_certificate_counts_for_new_connections_and_old_ones_go_on(
    server_files, caller_files, tmp_path, ca, listening, ask
):
    new_ca = trustme.CA()
    knows_the_new = Files(tmp_path / "new").write(None, new_ca).caller(shows=False)
    async with listening(server_files) as server:
        tls = caller_files.caller(shows=False)
        old = open_channel(f"127.0.0.1:{server.port}", "asyncio", tls)
        await check(old)
        assert await ask(server, knows_the_new) is grpc.StatusCode.UNAVAILABLE
        server_files.write(new_ca.issue_cert(SERVER_NAME), new_ca)
        assert await ask(server, knows_the_new) is grpc.StatusCode.OK
        assert await ask(server, caller_files.caller()) is grpc.StatusCode.UNAVAILABLE
        await check(old)
        await old.close(0)


async def test_a_broken_replacement_is_told_once_and_changes_nothing(
    server_files, caller_files, ca, caplog, listening, ask
):
    caplog.set_level(logging.WARNING, "service_runtime.tls")
    tls = caller_files.caller()
    async with listening(server_files) as server:
        server_files.key.write_bytes(ca.issue_cert(SERVER_NAME).private_key_pem.bytes())
        for _ in range(3):
            assert await ask(server, tls) is grpc.StatusCode.OK
        (told,) = caplog.messages
        assert "going on with the certificate of before" in told
        assert "KEY_VALUES_MISMATCH" in told
        server_files.key.unlink()
        assert await ask(server, tls) is grpc.StatusCode.OK
        server_files.write(ca.issue_cert(SERVER_NAME), ca)
        assert await ask(server, tls) is grpc.StatusCode.OK


def test_a_caller_hears_of_new_files(caller_files, ca):
    tls = caller_files.caller()
    tls.look_again()
    assert tls.generation == 0
    caller_files.write(ca.issue_cert("recommender.internal"), ca)
    tls.look_again()
    tls.look_again()
    assert tls.generation == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: files.key.unlink(), "tls.key: No such file"),
        (lambda files: (files.key.unlink(), files.key.mkdir()), "tls.key: Is a directory"),
        (lambda files: files.certificate.write_text("nothing"), "TEST_SERVER_TLS_.*tls.crt"),
    ],
)
async def test_files_that_cannot_be_used_stop_the_start(server_files, spoil, message, listening):
    spoil(server_files)
    with pytest.raises(StartupError, match=message):
        async with listening(server_files):
            pass


async def test_a_certificate_without_its_key_stops_the_start(server_files):
    settings = Settings(port=0, metrics_port=0, tls_cert_file=server_files.certificate)
    with pytest.raises(StartupError, match="TEST_SERVER_TLS_KEY_FILE: one needs the other"):
        async with running_server(settings, NOTHING, new_registry()):
            pass


async def test_handshakes_during_a_replacement_all_succeed(
    server_files, caller_files, ca, listening, ask
):
    """Certificate and key are two files: between the two replacements they do not match."""
    tls = caller_files.caller()
    async with listening(server_files) as server:

        async def replace() -> None:
            for _ in range(10):
                server_files.write(ca.issue_cert(SERVER_NAME), ca)
                await asyncio.sleep(0)

        async def connect() -> list[grpc.StatusCode]:
            return [await ask(server, tls) for _ in range(20)]

        _, codes = await asyncio.gather(replace(), connect())
        assert set(codes) == {grpc.StatusCode.OK}
