"""What a container's health check says of a server."""

import asyncio
import os
import sys

import pytest
import trustme

from service_runtime.metrics import new_registry
from service_runtime.server import Services, running_server
from tests.support.certificates import SERVER_NAME, Files
from tests.support.servers import Settings

NOTHING = Services(lambda _server: None, (), reflected=False)


async def probe(**settings) -> tuple[int, str]:
    """Exit code, and what was said."""
    given = {f"HEALTH_PROBE_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service_runtime.health_probe",
        env=os.environ | given, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_it_tells_serving_from_all_else():
    settings = Settings(port=0, metrics_port=0, drain_notice_seconds=0, drain_seconds=1)
    async with running_server(settings, NOTHING, new_registry()) as server:
        address = f"127.0.0.1:{server.port}"
        assert await probe(address=address) == (1, "NOT_SERVING\n")
        await server.set_serving(serving=True)
        assert await probe(address=address) == (0, "")
    code, said = await probe(address=address)
    assert code == 1
    assert said.startswith("no answer: ")
    assert said.count("\n") == 1


async def test_it_speaks_tls_and_shows_a_certificate(tmp_path):
    ca = trustme.CA()
    files = Files(tmp_path / "server").write(ca.issue_cert(SERVER_NAME), ca)
    settings = Settings(
        port=0, metrics_port=0, drain_notice_seconds=0, drain_seconds=1,
        tls_cert_file=files.certificate, tls_key_file=files.key, tls_client_ca_file=files.ca,
    )  # fmt: skip
    async with running_server(settings, NOTHING, new_registry()) as server:
        await server.set_serving(serving=True)
        known = {"address": f"127.0.0.1:{server.port}", "name": SERVER_NAME, "ca_file": files.ca}
        shown = {"cert_file": files.certificate, "key_file": files.key}
        assert await probe(**known, **shown) == (0, "")
        assert (await probe(**known))[0] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "HEALTH_PROBE_ADDRESS is missing: host:port of the server\n"),
        ({"address": "127.0.0.1:9", "ca_file": "/none"}, "/none: No such file or directory\n"),
    ],
)
async def test_what_is_missing_is_one_line(settings, said):
    assert await probe(**settings) == (1, said)
