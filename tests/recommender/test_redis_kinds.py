"""The history over TLS and in a cluster; both are the real server."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import trustme

from local_stack.processes import Process
from local_stack.redis import start_redis
from recommender.domain import View
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis
from service_runtime.errors import BackendUnavailableError
from tests.support.redis_users import rules_of, users_with

SLOTS = 16384


async def records_and_reads(history: RedisHistory) -> None:
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


async def test_the_user_of_the_deployment_needs_two_more_rights_for_a_cluster(cluster_url):
    with redis.Redis.from_url(cluster_url) as node:
        rules = [*rules_of("recommender"), ">s", "+cluster|slots", "+command"]
        node.execute_command("ACL", "SETUSER", "recommender", *rules)
        client = connect_redis(f"redis://recommender:s@{address(cluster_url)}", cluster=True)
        await records_and_reads(RedisHistory(client, ttl_seconds=60))
        await client.aclose()
        assert node.acl_log() == []


async def test_a_history_lives_in_a_cluster(cluster_url):
    client = connect_redis(cluster_url, cluster=True)
    await records_and_reads(RedisHistory(client, ttl_seconds=60))
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


@pytest.fixture
def guarded(tmp_path) -> Iterator[tuple[Process, str]]:
    """A server that knows the users of the deployment, and its URL."""
    users = tmp_path / "users.acl"
    users.write_text(f"{users_with(recommender='s3/cret')}user admin on nopass allkeys +@all\n")
    process, url = start_redis(tmp_path, tmp_path / "redis.log", "--aclfile", str(users))
    yield process, url
    process.stop()


def address(url: str) -> str:
    return url.removeprefix("redis://")


async def test_the_user_of_the_deployment_may_do_what_the_recommender_does_and_no_more(guarded):
    _, url = guarded
    client = connect_redis(f"redis://recommender:s3%2Fcret@{address(url)}")
    history = RedisHistory(client, ttl_seconds=60)
    await records_and_reads(history)
    assert await history.article_ids(["user", "stranger"], 5) == [[2, 1], []]
    with redis.Redis.from_url(f"redis://admin:x@{address(url)}") as admin:
        assert admin.acl_log() == []  # nothing was asked that is not allowed
    for command in (["GET", "other"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"],
                    ["ZADD", "other", "1", "a"], ["DEL", "recsys:history:{user}"]):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            await client.execute_command(*command)
    await client.aclose()


async def test_without_the_password_there_is_no_history(guarded):
    _, url = guarded
    for user in ("", "recommender:wrong@"):
        client = connect_redis(f"redis://{user}{address(url)}")
        with pytest.raises(BackendUnavailableError, match=r"(?i)auth|invalid username"):
            await RedisHistory(client, 60).article_ids(["user"], 5)
        await client.aclose()


async def test_credentials_from_a_file_are_read_for_each_connection(guarded, tmp_path):
    _, url = guarded
    file = tmp_path / "credentials"
    file.write_text("recommender:wrong\n")
    client = connect_redis(url, credentials_file=file)
    history = RedisHistory(client, ttl_seconds=60)
    with pytest.raises(BackendUnavailableError, match=r"(?i)invalid username-password"):
        await history.article_ids(["user"], 5)
    file.write_text("recommender:s3/cret\n")
    await records_and_reads(history)
    file.write_text("recommender\n")  # what is connected stays
    await records_and_reads(history)
    await client.connection_pool.disconnect()
    with pytest.raises(BackendUnavailableError, match=r"credentials: must be one line"):
        await history.article_ids(["user"], 5)
    await client.aclose()
    with pytest.raises(ValueError, match="beside REDIS_CREDENTIALS_FILE"):
        connect_redis(f"redis://u:p@{address(url)}", credentials_file=file)


@pytest.mark.parametrize(
    "url", ["redis://user:s3/cret@h:1/0", "redis://user:s3cret@h:port", "rdis://user:s3cret@h"]
)
def test_a_malformed_url_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match=r"^not redis://") as told:
        connect_redis(url)
    assert "cret" not in str(told.value)
    assert told.value.__suppress_context__ or told.value.__context__ is None


async def test_a_history_travels_over_tls(shared_redis, tmp_path):
    port = int(shared_redis.url.rpartition(":")[2].split("/")[0])
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    async with tls_in_front_of(port, authority) as tls_port:
        client = connect_redis(f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/ca.pem")
        await records_and_reads(RedisHistory(client, ttl_seconds=60))
        await client.aclose()
        client = connect_redis(
            f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={tmp_path}/stranger.pem"
        )
        with pytest.raises(BackendUnavailableError, match=r"(?i)certificate"):
            await RedisHistory(client, 60).article_ids(["user"], 5)
        await client.aclose()
