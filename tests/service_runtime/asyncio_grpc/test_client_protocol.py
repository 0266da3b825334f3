"""Corners of HTTP/2 that servers may take a caller to."""

import asyncio

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from service_runtime.asyncio_grpc.client_connection import NotBegunError
from service_runtime.asyncio_grpc.errors import ErrorCode
from service_runtime.asyncio_grpc.frames import (
    END_HEADERS,
    END_STREAM,
    Kind,
    frame,
)
from service_runtime.asyncio_grpc.header_blocks import block
from service_runtime.asyncio_grpc.messages import prefixed
from tests.support.http2_peer import OK, REQUEST, RESPONSE, Peer
from tests.support.wire import client_wire, turns


@pytest.fixture
async def calling():
    async with client_wire() as wire:
        yield wire


@pytest.fixture
async def server(calling):
    return Peer(calling, client=False)


async def begin(server, message=b"hello"):
    calling = server.wire.protocol
    call = asyncio.create_task(calling.call(block(REQUEST), message, None))
    await server.exchange()
    return call, server.of(h2.events.RequestReceived)[-1].stream_id


async def code_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


async def answer(server, stream, message=b"hello"):
    server.h2.send_headers(stream, RESPONSE)
    server.h2.send_data(stream, prefixed(message))
    server.h2.send_headers(stream, OK, end_stream=True)
    await server.exchange()


async def test_calls_of_ours_satisfy_a_strict_server(server):
    for message in (b"", b"hello", b"x" * 16_000):
        call, stream = await begin(server, message)
        assert server.body(stream) == prefixed(message)
        await answer(server, stream, message)
        assert await call == message
    assert not server.wire.protocol.streams


async def test_a_large_request_waits_for_the_window(server):
    message = b"x" * 100_000
    call, stream = await begin(server, message)
    assert len(server.body(stream)) == 65_535
    server.h2.increment_flow_control_window(100_000)
    server.h2.increment_flow_control_window(100_000, stream)
    await server.exchange()
    assert server.body(stream) == prefixed(message)
    assert server.of(h2.events.StreamEnded)
    await answer(server, stream)
    assert await call == b"hello"


async def test_an_answer_before_the_request_was_sent_ends_the_call(server):
    call, stream = await begin(server, b"x" * 100_000)
    server.h2.send_headers(stream, [*RESPONSE, ("grpc-status", "8")], end_stream=True)
    await server.exchange()
    assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.of(h2.events.StreamReset)
    call, stream = await begin(server)
    await answer(server, stream)
    assert await call == b"hello"


async def test_informational_headers_come_before_the_answer(server):
    call, stream = await begin(server)
    server.h2.send_headers(stream, [(":status", "103")])
    await answer(server, stream)
    assert await call == b"hello"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(RESPONSE, None, False), (None, prefixed(b"x"), True)], grpc.StatusCode.INTERNAL),
        ([(RESPONSE, None, False), (OK, None, True)], grpc.StatusCode.INTERNAL),
        ([(RESPONSE, prefixed(b"x") * 2, False)], grpc.StatusCode.INTERNAL),
        ([(RESPONSE, prefixed(b"x")[:-1], False), (OK, None, True)], grpc.StatusCode.INTERNAL),
        ([([(":status", "503")], None, False)], grpc.StatusCode.UNAVAILABLE),
        ([([(":status", "404")], None, True)], grpc.StatusCode.UNIMPLEMENTED),
        ([([*RESPONSE, ("grpc-status", "99")], None, True)], grpc.StatusCode.UNKNOWN),
        ([([*RESPONSE, ("grpc-encoding", "gzip")], None, False)], grpc.StatusCode.INTERNAL),
        ([([*RESPONSE, ("grpc-status", "9" * 5000)], None, True)], grpc.StatusCode.UNKNOWN),
        ([([*RESPONSE, ("grpc-status", "5"), ("x-bin", "!")], None, True)],
         grpc.StatusCode.NOT_FOUND),
        ([(RESPONSE, b"\1" + prefixed(b"x")[1:], False)], grpc.StatusCode.INTERNAL),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_has_a_status(server, frames, code):
    call, stream = await begin(server)
    for headers, data, end in frames:
        if headers is not None:
            server.h2.send_headers(stream, headers, end_stream=end and data is None)
        if data is not None:
            server.h2.send_data(stream, data, end_stream=end)
    await server.exchange()
    assert await code_of(call) is code
    assert not server.wire.protocol.streams


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (ErrorCode.CANCEL, grpc.StatusCode.CANCELLED),
        (ErrorCode.ENHANCE_YOUR_CALM, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ErrorCode.INTERNAL_ERROR, grpc.StatusCode.INTERNAL),
        (77, grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_stream_that_is_reset_has_a_status(server, reset, code):
    call, stream = await begin(server)
    server.h2.reset_stream(stream, reset)
    await server.exchange()
    assert await code_of(call) is code


@pytest.mark.parametrize(
    ("headers", "flags"),
    [
        ([(":status", "103")], END_HEADERS | END_STREAM),
        ([(":status", "9" * 5000)], END_HEADERS | END_STREAM),
        ([("", "x"), ("grpc-status", "3")], END_HEADERS | END_STREAM),
    ],
)
async def test_strange_headers_end_the_call(server, headers, flags):
    call, stream = await begin(server)
    server.wire.feed(frame(Kind.HEADERS, flags, stream, block(headers)))
    await turns()
    assert call.done()
    assert await code_of(call) is not grpc.StatusCode.OK


async def test_an_answer_to_no_call_ends_the_connection(server):
    server.wire.feed(frame(Kind.HEADERS, END_HEADERS, 7, block(RESPONSE)))
    assert server.wire.is_closed
    assert not server.wire.protocol.is_usable


async def test_what_the_server_did_not_begin_is_told_apart(server):
    first, stream = await begin(server)
    second, refused = await begin(server)
    third, _ = await begin(server)
    server.h2.reset_stream(refused, ErrorCode.REFUSED_STREAM)
    await server.exchange()
    with pytest.raises(NotBegunError):
        await second
    server.wire.feed(frame(Kind.GOAWAY, 0, 0, stream.to_bytes(4, "big") + b"\0\0\0\0" + b"going"))
    with pytest.raises(NotBegunError, match="going"):
        await third
    assert not server.wire.protocol.is_usable
    await answer(server, stream)
    assert await first == b"hello"
    await turns()
    assert server.wire.is_closed
