"""The history over TLS and in a cluster; both are the real server."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import trustme

from local_stack.redis import start_redis
from recommender.domain import View
from recommender.history import RedisHistory, connect_redis
from service_runtime.errors import BackendUnavailableError

SLOTS = 16384


async def records_and_reads(client) -> None:
    history = RedisHistory(client, ttl_seconds=60)
    await history.record("user", [View(1, 10), View(2, 20)], 5)
    await history.record("user", [View(1, 5)], 5)
    assert await history.article_ids(["user"], 5) == [[2, 1]]
    assert await history.views("user", 5) == [View(2, 20), View(1, 10)]


@pytest.fixture
def cluster_url(tmp_path) -> Iterator[str]:
    """A cluster of one node that holds all slots."""
    process, url = start_redis(tmp_path, tmp_path / "redis.log", "--cluster-enabled", "yes")
    try:
        with redis.Redis.from_url(url) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            process.wait_until(lambda: is_up(node), 10)
        yield url
    finally:
        process.stop()


def is_up(node) -> bool:
    return b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO")


async def test_a_history_lives_in_a_cluster(cluster_url):
    client = connect_redis(cluster_url, cluster=True)
    await records_and_reads(client)
    await client.aclose()


@asynccontextmanager
async def tls_in_front_of(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """Terminate TLS and pass the bytes on; the server in the wheel has no TLS of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_history_travels_over_tls(shared_redis, tmp_path):
    port = int(shared_redis.url.rpartition(":")[2].split("/")[0])
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    async with tls_in_front_of(port, authority) as tls_port:
        client = connect_redis(f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/ca.pem")
        await records_and_reads(client)
        await client.aclose()
        client = connect_redis(
            f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/stranger.pem"
        )
        with pytest.raises(BackendUnavailableError, match=r"(?i)certificate"):
            await RedisHistory(client, 60).article_ids(["user"], 5)
        await client.aclose()
