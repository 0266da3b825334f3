"""The channel, asking grpc's own server and ours."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import grpc
import pytest

from service_runtime.asyncio_grpc.frames import settings_frame
from tests.support.echo import MIB, Echo, call, channel_to, serving, status_of

Code = grpc.StatusCode
LARGE = [("grpc.max_receive_message_length", 64 * MIB)]


@asynccontextmanager
async def serving_by_grpcio(echo, port=0):
    server = grpc.aio.server(options=LARGE)
    server.add_generic_rpc_handlers((echo.handler(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture(params=[serving_by_grpcio, serving], ids=["grpcio", "ours"])
def any_serving(request):
    return request.param


@pytest.fixture
async def channel(echo, any_serving):
    async with any_serving(echo) as (_, port), channel_to(port) as channel:
        yield channel


@pytest.mark.parametrize("size", [0, 1, 800, 65_536, 3 * MIB])
async def test_messages_of_any_size_come_and_go(channel, size):
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await call(channel, "Echo", message) == message


async def test_many_calls_at_once_each_get_their_own_answer(channel):
    messages = [str(number).encode() * (number + 1) for number in range(300)]
    assert await asyncio.gather(*(call(channel, "Echo", each) for each in messages)) == messages


async def test_metadata_and_deadline_travel(channel, echo):
    sent = (("x-request-id", "a b"), ("x-key-bin", b"\x00\x01\xfe"))
    await call(channel, "Echo", metadata=sent, timeout=7)
    assert set(sent) <= set(echo.metadata)
    assert 6 < echo.remaining <= 7.01
    await call(channel, "Echo", timeout=None)
    assert echo.remaining is None


async def test_what_an_answer_ends_with_is_to_be_had(channel):
    trailers = []
    await call(channel, "Echo", trailers=trailers)
    assert {("grpc-status", "0"), ("x-length", "5")} <= set(trailers)


async def test_a_channel_connects_before_its_first_call(echo, any_serving, free_port):
    async with any_serving(echo) as (_, port), channel_to(port) as channel:
        await channel.connect(10)
    async with channel_to(free_port) as channel:
        error = await status_of(channel.connect(10))
        assert error.code() is Code.UNAVAILABLE


@pytest.mark.parametrize("name", ["X-Upper", "grpc-status", ":path", ""])
async def test_what_cannot_be_metadata_is_refused(channel, name):
    with pytest.raises(ValueError, match="cannot be the name of metadata"):
        await call(channel, "Echo", metadata=((name, "value"),))


@pytest.mark.parametrize("why", ["gone", "50 % für 당근\nand more"])
async def test_a_status_keeps_its_text_and_metadata(channel, why):
    error = await status_of(call(channel, "Refuse", why.encode()))
    assert error.code() is Code.NOT_FOUND
    assert error.details() == why
    assert ("x-why", "gone") in tuple(error.trailing_metadata())


async def test_what_is_unknown_is_unimplemented(channel):
    assert (await status_of(call(channel, "Nothing"))).code() is Code.UNIMPLEMENTED


async def test_an_answer_that_cannot_be_read_is_internal(channel):
    method = channel.unary_unary("/test.Echo/Echo", response_deserializer=int)
    assert (await status_of(method(b"no number", timeout=5))).code() is Code.INTERNAL


async def test_a_deadline_ends_the_call_at_both_ends(channel, echo):
    error = await status_of(call(channel, "Wait", timeout=0.05))
    assert error.code() is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(echo.cancelled.wait(), 5)
    assert await call(channel, "Echo") == b"hello"


async def test_a_caller_that_goes_away_ends_the_call_at_the_server(channel, echo):
    task = asyncio.ensure_future(call(channel, "Wait"))
    await echo.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(echo.cancelled.wait(), 5)
    assert await call(channel, "Echo") == b"hello"


async def test_an_answer_over_the_limit_is_refused(echo, any_serving):
    async with (
        any_serving(echo) as (_, port),
        channel_to(port, max_message_bytes=1000) as channel,
    ):
        error = await status_of(call(channel, "Echo", b"x" * 1001))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "1001 vs. 1000" in error.details()
        assert await call(channel, "Echo") == b"hello"


async def test_more_calls_than_the_server_takes_are_refused_by_name(echo):
    async with serving(echo, max_streams=2) as (_, port), channel_to(port) as channel:
        await call(channel, "Echo")
        waiting = [asyncio.ensure_future(call(channel, "Wait")) for _ in range(2)]
        await echo.entered.wait()
        error = await status_of(call(channel, "Echo"))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "2 calls of a connection at a time" in error.details()
        echo.release.set()
        assert await asyncio.gather(*waiting) == [b"hello"] * 2


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def until_ok(channel):
    async with asyncio.timeout(5):
        while True:
            try:
                return await call(channel, "Echo")
            except grpc.aio.AioRpcError as error:
                if error.code() is not Code.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)


async def test_nobody_there_is_told_at_once_and_found_once_he_comes(echo, any_serving, free_port):
    async with channel_to(free_port) as channel:
        for _ in range(3):
            error = await asyncio.wait_for(status_of(call(channel, "Echo")), 1)
            assert error.code() is Code.UNAVAILABLE
            assert f"failed to connect to 127.0.0.1:{free_port}" in error.details()
        async with any_serving(echo, port=free_port):
            assert await until_ok(channel) == b"hello"
        error = await status_of(call(channel, "Echo"))
        assert error.code() is Code.UNAVAILABLE
        async with any_serving(echo, port=free_port):
            assert await until_ok(channel) == b"hello"


async def test_a_server_that_is_lost_ends_the_calls_on_it(echo, any_serving):
    async with any_serving(echo) as (_, port), channel_to(port) as channel:
        waiting = asyncio.ensure_future(call(channel, "Wait"))
        await echo.entered.wait()
        async with channel_to(port) as other:
            assert await call(other, "Echo") == b"hello"
    assert (await status_of(waiting)).code() is Code.UNAVAILABLE


async def test_a_server_that_says_nothing_costs_the_time_that_was_given():
    async def ignore(reader, writer):
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with channel_to(port) as channel:
        error = await asyncio.wait_for(status_of(call(channel, "Echo", timeout=0.1)), 2)
        assert error.code() is Code.DEADLINE_EXCEEDED
    silent.close()


async def test_connecting_takes_from_the_time_of_the_call(echo):
    """A server that is slow to say hello, and then to answer."""

    async def greet_late(reader, writer):
        await asyncio.sleep(0.5)
        writer.write(settings_frame(()))
        await reader.read()
        writer.close()

    late = await asyncio.start_server(greet_late, "127.0.0.1", 0)
    async with channel_to(late.sockets[0].getsockname()[1]) as channel:
        started = time.perf_counter()
        error = await status_of(call(channel, "Echo", timeout=0.6))
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert 0.59 < time.perf_counter() - started < 1.05  # 1.1 if the time began anew
    late.close()


async def test_whoever_hangs_up_at_once_is_not_asked_again_and_again():
    connections = 0

    async def hang_up(reader, writer):
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with channel_to(server.sockets[0].getsockname()[1]) as channel:
        for _ in range(50):
            error = await status_of(call(channel, "Echo"))
            assert error.code() is Code.UNAVAILABLE
            assert "hung up" in error.details() or "reset" in error.details()
    assert connections <= 3
    server.close()


async def test_closing_lets_calls_end_within_the_grace(echo, any_serving):
    async with any_serving(echo) as (_, port), channel_to(port) as channel:
        waiting = asyncio.ensure_future(call(channel, "Wait"))
        await echo.entered.wait()
        closing = asyncio.create_task(channel.close(10))
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.UsageError):
            await call(channel, "Echo")
        echo.release.set()
        assert await waiting == b"hello"
        await asyncio.wait_for(closing, 5)


async def test_closing_gives_up_what_is_not_answered_in_time(echo, any_serving):
    async with any_serving(echo) as (_, port), channel_to(port) as channel:
        waiting = asyncio.ensure_future(call(channel, "Wait"))
        await echo.entered.wait()
        await asyncio.wait_for(channel.close(0.01), 5)
        error = await status_of(waiting)
        assert error.code() is Code.UNAVAILABLE
        assert "the channel was closed" in error.details()


async def test_renewing_connections_costs_no_call(echo):
    async with serving(echo, max_age_seconds=0.1) as (_, port), channel_to(port) as channel:

        async def ask():
            for _ in range(300):
                assert await call(channel, "Echo") == b"hello"
                await asyncio.sleep(0.002)

        await asyncio.gather(ask(), ask(), ask())
