"""The server, asked by grpc's own clients."""

import asyncio
import logging
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from tests.support.echo import MIB, Echo, call, serving, status_of

Code = grpc.StatusCode
LARGE = [("grpc.max_receive_message_length", 64 * MIB)]


@pytest.fixture
def echo():
    return Echo()


@asynccontextmanager
async def asked(echo, **options):
    """A server, and a channel of grpc's to it."""
    async with (
        serving(echo, **options) as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LARGE) as channel,
    ):
        yield server, channel


@pytest.fixture
async def served(echo):
    """The server's port."""
    async with serving(echo) as (_, port):
        yield port


@pytest.fixture
async def channel(echo):
    async with asked(echo) as (_, channel):
        yield channel


@pytest.mark.parametrize("size", [0, 1, 800, 65_536, 3 * MIB])
async def test_messages_of_any_size_come_and_go(channel, size):
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await call(channel, "Echo", message) == message


async def test_metadata_travels_both_ways(channel, echo):
    sent = (("x-request-id", "a b"), ("x-key-bin", b"\x00\x01\xfe"))
    answer = call(channel, "Echo", metadata=sent)
    assert await answer == b"hello"
    assert set(sent) <= set(echo.metadata)
    trailing = dict(await answer.trailing_metadata())
    assert trailing["x-length"] == "5"
    assert trailing["x-raw-bin"] == b"\x00\xff"


async def test_the_deadline_is_told_and_none_is_none(channel, echo):
    await call(channel, "Echo", timeout=7)
    assert 6 < echo.remaining <= 7
    await call(channel, "Echo", timeout=None)
    assert echo.remaining is None


@pytest.mark.parametrize("why", ["gone", "50 % für 당근\nand more", ""])
async def test_a_status_keeps_its_text_and_metadata(channel, why):
    error = await status_of(call(channel, "Refuse", why.encode()))
    assert error.code() is Code.NOT_FOUND
    assert error.details() == why
    assert ("x-why", "gone") in tuple(error.trailing_metadata())


async def test_what_is_unknown_is_unimplemented(channel):
    for path in ("/test.Echo/Nothing", "/test.Nobody/Echo", "/"):
        error = await status_of(channel.unary_unary(path)(b"", timeout=5))
        assert error.code() is Code.UNIMPLEMENTED


async def test_what_breaks_is_unknown_and_in_the_log(channel, caplog):
    caplog.set_level(logging.ERROR)
    error = await status_of(call(channel, "Break"))
    assert error.code() is Code.UNKNOWN
    assert "for us alone" not in error.details()
    assert "/test.Echo/Break failed" in caplog.text


async def test_what_the_method_cannot_read_is_told(channel):
    error = await status_of(call(channel, "Misread", b"no number"))
    assert error.code() is Code.INTERNAL
    assert "not a message of this method" in error.details()


async def test_a_message_over_the_limit_is_refused(channel):
    error = await status_of(call(channel, "Echo", b"x" * (4 * MIB + 1)))
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "4194305 vs. 4194304" in error.details()
    assert await call(channel, "Echo") == b"hello"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_read(served, compression):
    address = f"127.0.0.1:{served}"
    async with grpc.aio.insecure_channel(address, compression=compression) as channel:
        message = b"again and " * 1000
        assert await call(channel, "Echo", message) == message
        error = await status_of(call(channel, "Echo", b"\0" * (4 * MIB + 1)))
        assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_streams_of_each_kind(channel):
    repeated = channel.unary_stream("/test.Echo/Repeat")(b"large" * 100_000, timeout=10)
    assert [len(each) async for each in repeated] == [500_000] * 3
    each = channel.stream_stream("/test.Echo/Each")(timeout=10)
    for text in (b"a", b"", b"c" * 100_000):
        await each.write(text)
        assert await each.read() == text
    await each.done_writing()
    assert await each.read() is grpc.aio.EOF
    assert await each.code() is Code.OK
    joined = channel.stream_unary("/test.Echo/Join")(iter([b"a", b"b", b"c"]), timeout=10)
    assert await joined == b"abc"


async def test_a_deadline_ends_the_work(channel, echo):
    error = await status_of(call(channel, "Wait", timeout=0.05))
    assert error.code() is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(echo.cancelled.wait(), 5)


async def test_a_caller_that_goes_away_ends_the_work(served, echo):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served}") as channel:
        left = call(channel, "Wait")
        await echo.entered.wait()
        left.cancel()
        await asyncio.wait_for(echo.cancelled.wait(), 5)
        echo.cancelled.clear()
        echo.entered.clear()
        call(channel, "Wait")
        await echo.entered.wait()
    await asyncio.wait_for(echo.cancelled.wait(), 5)


async def test_many_calls_at_once_each_get_their_own_answer(channel):
    messages = [str(number).encode() * (number + 1) for number in range(300)]
    assert await asyncio.gather(*(call(channel, "Echo", each) for each in messages)) == messages


async def test_more_calls_than_a_connection_takes_wait_with_the_caller(echo):
    async with asked(echo, max_streams=5) as (_, channel):
        await call(channel, "Echo")  # the client knows the limit now
        echo.release.set()
        assert await asyncio.gather(*(call(channel, "Wait") for _ in range(40))) == [b"hello"] * 40


async def test_a_client_of_threads(served):
    def ask():
        with grpc.insecure_channel(f"127.0.0.1:{served}") as channel:
            return [channel.unary_unary("/test.Echo/Echo")(b"%d" % n, timeout=5) for n in range(5)]

    assert await asyncio.to_thread(ask) == [b"0", b"1", b"2", b"3", b"4"]


async def test_health_and_reflection_of_grpcs_own_servicers(echo):
    health = HealthServicer()
    async with asked(echo) as (server, channel):
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names = ("grpc.health.v1.Health",)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(names), server
        )
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        error = await status_of(stub.Check(health_pb2.HealthCheckRequest(service="none")))
        assert error.code() is Code.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await info.write(question)
        listed = (await info.read()).list_services_response
        assert [service.name for service in listed.service] == list(names)
        await info.done_writing()
        assert await info.code() is Code.OK


async def test_an_interceptor_may_answer_instead(echo):
    class Elsewhere(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):
            if details.method == "/test.Echo/Echo":

                async def answer(request, context):
                    return b"from elsewhere"

                return grpc.unary_unary_rpc_method_handler(answer)
            return await continuation(details)

    async with asked(echo, interceptor=Elsewhere()) as (_, channel):
        assert await call(channel, "Echo") == b"from elsewhere"
        assert (await status_of(call(channel, "Refuse"))).code() is Code.NOT_FOUND


async def test_stopping_lets_calls_end_and_takes_no_more(echo):
    async with asked(echo) as (server, channel):
        under_way = call(channel, "Wait")
        await echo.entered.wait()
        stopped = asyncio.create_task(server.stop(10))
        error = Code.OK
        while error is Code.OK:  # until the client has heard of it
            try:
                await call(channel, "Echo", timeout=1)
            except grpc.aio.AioRpcError as failed:
                error = failed.code()
        assert error is Code.UNAVAILABLE
        echo.release.set()
        assert await under_way == b"hello"
        await asyncio.wait_for(stopped, 5)


async def test_of_two_graces_the_shorter_counts(echo):
    async with asked(echo) as (server, channel):
        under_way = call(channel, "Wait")
        await echo.entered.wait()
        stopped = asyncio.create_task(server.stop(60))
        await asyncio.wait_for(server.stop(0.01), 5)
        assert (await status_of(under_way)).code() is Code.UNAVAILABLE
        await asyncio.wait_for(stopped, 5)
        assert echo.cancelled.is_set()


async def test_renewing_connections_costs_no_call(echo):
    async with asked(echo, max_age_seconds=0.1) as (_, channel):

        async def ask():
            for _ in range(150):
                assert await call(channel, "Echo") == b"hello"
                await asyncio.sleep(0.005)

        await asyncio.gather(ask(), ask())
