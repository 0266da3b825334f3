"""Connections that stay taken out of the pool, to a real Redis."""

import asyncio

import pytest
import redis
from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis

from recommender.kept_connections import KeptConnections
from recommender.redis_client import connect_redis

MOST = 4


@pytest.fixture
async def client(shared_redis):
    pool = BlockingConnectionPool.from_url(shared_redis.url, max_connections=MOST, timeout=None)
    client = Redis.from_pool(pool)
    yield client
    await client.aclose()
    await pool.disconnect()


def echo(text: str) -> bytes:
    return pack_command(("ECHO", text))


ID = pack_command(("CLIENT", "ID"))


async def test_one_connection_is_asked_again_and_again(client):
    kept = KeptConnections(client.connection_pool)
    assert len({(await kept.ask([ID]))[0] for _ in range(5)}) == 1


async def test_an_error_is_the_reply_to_its_command_only(client):
    kept = KeptConnections(client.connection_pool)
    replies = await kept.ask([echo("a"), pack_command(("ECHO",)), echo("b")])
    assert (replies[0], replies[2]) == (b"a", b"b")
    assert isinstance(replies[1], redis.exceptions.ResponseError)


async def test_a_connection_that_redis_closed_is_replaced_without_an_error(client, shared_redis):
    kept = KeptConnections(client.connection_pool)
    (number,) = await kept.ask([ID])
    with redis.Redis.from_url(shared_redis.url) as other:
        assert other.client_kill_filter(_id=number) == 1
    assert await kept.ask([echo("a")]) == [b"a"]
    assert await kept.ask([ID]) != [number]


async def test_a_reply_that_nobody_waits_for_any_more_goes_to_nobody(client):
    kept = KeptConnections(client.connection_pool)
    await kept.ask([echo("before")])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await kept.ask([pack_command(("BLPOP", "nothing-there", 0.05)), echo("late")])
    for text in ("a", "b"):
        assert await kept.ask([echo(text)]) == [text.encode()]


async def test_more_at_once_than_there_are_connections_all_get_their_own_replies(client):
    kept = KeptConnections(client.connection_pool)
    texts = [str(number) for number in range(20 * MOST)]

    async def both(text: str) -> tuple[bytes, bytes]:
        by_client = await client.echo(text)
        return by_client, (await kept.ask([echo(text)]))[0]

    async with asyncio.timeout(10):
        answers = await asyncio.gather(*map(both, texts))
    assert answers == [(text.encode(), text.encode()) for text in texts]


async def test_without_redis_the_error_says_so():
    client = connect_redis("redis://127.0.0.1:1")
    with pytest.raises(redis.exceptions.ConnectionError):
        await KeptConnections(client.connection_pool).ask([ID])
    await client.aclose()
