"""Corners of HTTP/2 that callers may take a server to."""

import gzip
import zlib

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from service_runtime.asyncio_grpc import server_connection
from service_runtime.asyncio_grpc.errors import ErrorCode
from service_runtime.asyncio_grpc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Kind,
    frame,
    settings_frame,
    window_update_frame,
)
from service_runtime.asyncio_grpc.header_blocks import block
from service_runtime.asyncio_grpc.messages import prefixed
from tests.support.http2_peer import REQUEST, Peer, ask, request_to
from tests.support.wire import server_wire, turns


async def test_calls_with_tables_and_huffman(peer):
    for stream in (1, 3, 5):
        await ask(peer, stream, headers=[*REQUEST, ("x-request-id", f"call {stream}")])


async def test_a_table_that_is_made_small_is_heeded(wire):
    peer = Peer(wire, client=True)
    peer.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    await peer.exchange()
    await ask(peer, 1)
    await ask(peer, 3)


async def test_headers_in_pieces_padding_and_priority(wire, peer):
    data = block(REQUEST)
    padded_and_prioritized = b"\x03" + b"\0\0\0\0\x10" + data[:5] + b"\0\0\0"
    wire.feed(frame(Kind.HEADERS, 0x8 | 0x20, 1, padded_and_prioritized))
    wire.feed(frame(Kind.CONTINUATION, 0, 1, data[5:20]))
    wire.feed(frame(Kind.CONTINUATION, END_HEADERS, 1, data[20:]))
    wire.feed(frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\x10"))
    wire.feed(frame(Kind.DATA, 0x8 | END_STREAM, 1, b"\x02" + prefixed(b"hello") + b"\0\0"))
    await turns()
    kinds = [(each.kind, each.stream) for each in wire.frames()]
    assert kinds == [(Kind.HEADERS, 1), (Kind.DATA, 1), (Kind.HEADERS, 1)]


async def test_frames_that_nobody_has_defined_are_passed_over(wire, peer):
    wire.feed(frame(0xFA, 0xFF, 0, b"anything") + frame(0xFB, 0, 1, b""))
    await ask(peer, 1)


async def test_one_byte_at_a_time(echo):
    sent = (
        PREFACE
        + settings_frame(())
        + frame(Kind.HEADERS, END_HEADERS, 1, block(REQUEST))
        + frame(Kind.DATA, END_STREAM, 1, prefixed(b"hello"))
    )
    async with server_wire(echo) as wire:
        for place in range(len(sent)):
            wire.feed(sent[place : place + 1])
        await turns()
        assert Kind.DATA in [each.kind for each in wire.frames()]


@pytest.mark.parametrize(
    "arriving",
    [b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", b"PRI * HTTP/2", b"\x16\x03\x01 a hello of TLS"],
)
async def test_what_is_not_http2_is_sent_away(echo, arriving):
    async with server_wire(echo) as wire:
        wire.feed(arriving[:3])
        wire.feed(arriving[3:])
        last = wire.frames()[-1]
        assert wire.is_closed == (last.kind == Kind.GOAWAY)
        assert wire.is_closed == (arriving != b"PRI * HTTP/2")


HEAD = frame(Kind.HEADERS, END_HEADERS, 1, block(REQUEST))


@pytest.mark.parametrize(
    ("arriving", "code"),
    [
        (frame(Kind.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),  # nobody began it
        (frame(Kind.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, END_HEADERS, 0, block(REQUEST)), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, END_HEADERS, 2, block(REQUEST)), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(Kind.HEADERS, 0x8 | END_HEADERS, 1, b"\x09x"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, 0, 1, b"") + frame(Kind.PING, 0, 0, b"x" * 8),
         ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.CONTINUATION, END_HEADERS, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, 0, 1, b"") + frame(Kind.CONTINUATION, 0, 1, b"x" * 16_384) * 5,
         ErrorCode.ENHANCE_YOUR_CALM),
        (frame(Kind.HEADERS, 0, 1, b"") + frame(Kind.CONTINUATION, 0, 1, b""),
         ErrorCode.ENHANCE_YOUR_CALM),
        (settings_frame(()) * 1000, ErrorCode.ENHANCE_YOUR_CALM),
        (frame(Kind.PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.PING, 0, 1, b"x" * 8), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.RST_STREAM, 0, 1, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.RST_STREAM, 0, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.SETTINGS, 0, 0, b"odd"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, ACK, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
        (frame(Kind.SETTINGS, 0, 0, b"\0\5\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.SETTINGS, 0, 0, b"\0\2\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.PUSH_PROMISE, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.GOAWAY, 0, 0, b"short"), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
        (window_update_frame(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frame(Kind.PRIORITY, 0, 0, b"\0" * 5), ErrorCode.PROTOCOL_ERROR),
        (b"\xff\xff\xff\0\0\0\0\0\1", ErrorCode.FRAME_SIZE_ERROR),
        (frame(Kind.PING, 0, 0, b"x" * 8) * 4, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)  # fmt: skip
async def test_what_breaks_the_rules_ends_the_connection(wire, peer, arriving, code):
    wire.feed(arriving)
    assert wire.is_closed
    last = wire.frames()[-1]
    assert last.kind == Kind.GOAWAY
    assert int.from_bytes(last.payload[4:8], "big") == code


@pytest.mark.parametrize(
    ("arriving", "code"),
    [
        (frame(Kind.HEADERS, END_HEADERS, 1, block(REQUEST[1:])), ErrorCode.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, END_HEADERS, 1, block([*REQUEST, ("Upper", "x")])),
         ErrorCode.PROTOCOL_ERROR),
        (HEAD + window_update_frame(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (HEAD + frame(Kind.WINDOW_UPDATE, 0, 1, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR),
        (HEAD + frame(Kind.HEADERS, END_HEADERS, 1, block([])), ErrorCode.PROTOCOL_ERROR),
        (HEAD + frame(Kind.PRIORITY, 0, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
    ],
)  # fmt: skip
async def test_what_breaks_the_rules_of_a_stream_ends_the_stream(wire, peer, arriving, code):
    wire.feed(arriving)
    reset = wire.frames()[-1]
    assert (reset.kind, reset.stream) == (Kind.RST_STREAM, 1)
    assert int.from_bytes(reset.payload, "big") == code
    assert not wire.is_closed
    assert not wire.protocol.streams


async def test_data_after_the_end_ends_the_stream(wire, peer):
    wait = block(request_to("Wait"))
    wire.feed(frame(Kind.HEADERS, END_HEADERS, 1, wait))
    wire.feed(frame(Kind.DATA, END_STREAM, 1, prefixed(b"hello")))
    wire.feed(frame(Kind.DATA, 0, 1, b"more"))
    assert wire.frames()[-1].payload == ErrorCode.STREAM_CLOSED.to_bytes(4, "big")
    await turns()
    assert not wire.protocol.streams


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ([(":method", "GET"), *REQUEST[1:]], {":status": "405"}),
        ([*REQUEST[:4], ("content-type", "text/html")], {":status": "415"}),
        ([*REQUEST, ("grpc-timeout", "soon")], {"grpc-status": "13"}),
        ([*REQUEST, ("x-bin", "no base64!")], {"grpc-status": "13"}),
        ([*REQUEST, ("grpc-encoding", "snappy")],
         {"grpc-status": "12", "grpc-accept-encoding": "identity,deflate,gzip"}),
    ],
)  # fmt: skip
async def test_headers_that_are_not_of_grpc_are_answered(peer, headers, answered):
    peer.h2.send_headers(1, headers, end_stream=True)
    await peer.exchange()
    assert answered.items() <= peer.trailers(1).items()
    await ask(peer, 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", "12"),  # UNIMPLEMENTED: one message it has to be
        (prefixed(b"a") * 2, "12"),
        (prefixed(b"hello")[:-1], "13"),
        (b"\1" + prefixed(b"x")[1:], "13"),  # compressed, and nobody said by what
    ],
)
async def test_a_body_that_is_not_one_message_is_told(peer, body, status):
    peer.h2.send_headers(1, REQUEST)
    peer.h2.send_data(1, body, end_stream=True)
    await peer.exchange()
    assert peer.trailers(1)["grpc-status"] == status
    await ask(peer, 3)


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: b"x" + data])
@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_compressed_message_that_is_broken_is_told(peer, spoil, encoding, compress):
    data = spoil(compress(b"hello" * 100))
    peer.h2.send_headers(1, [*REQUEST, ("grpc-encoding", encoding)])
    peer.h2.send_data(1, b"\1" + prefixed(data)[1:], end_stream=True)
    await peer.exchange()
    assert peer.trailers(1)["grpc-status"] == "13"


async def test_streams_beyond_the_limit_are_refused_also_where_others_are_given_up(wire, peer):
    wait = block(request_to("Wait"))
    for stream in range(1, 61, 2):
        wire.feed(
            frame(Kind.HEADERS, END_HEADERS, stream, wait)
            + frame(Kind.DATA, END_STREAM, stream, prefixed(b""))
            + frame(Kind.RST_STREAM, 0, stream, b"\0\0\0\x08")
        )
    refused = [each.stream for each in wire.frames() if each.kind == Kind.RST_STREAM]
    assert refused == list(range(41, 61, 2))  # twenty tasks have yet to hear that they are given up
    await turns()
    wire.feed(frame(Kind.HEADERS, END_HEADERS, 61, block(REQUEST)))
    wire.feed(frame(Kind.DATA, END_STREAM, 61, prefixed(b"")))
    await turns()
    assert Kind.DATA in [each.kind for each in wire.frames()]


async def test_a_caller_that_is_lost_ends_the_work(wire, peer, echo):
    peer.h2.send_headers(1, request_to("Wait"))
    peer.h2.send_data(1, prefixed(b"hello"), end_stream=True)
    await peer.exchange()
    assert echo.entered.is_set()
    wire.close()
    await turns()
    assert echo.cancelled.is_set()


async def test_headers_over_the_limit_cost_their_call_only(peer):
    peer.h2.send_headers(1, [*REQUEST, ("cookie", "x" * 20_000)], end_stream=True)
    await peer.exchange()
    assert peer.trailers(1)["grpc-status"] == "8"
    await ask(peer, 3)


@pytest.mark.parametrize("name", ["grpc-timeout", "grpc-encoding", "x" * 8000 + "-bin"])
async def test_a_refusal_quotes_little(peer, name):
    peer.h2.send_headers(1, [*REQUEST, (name, "é" * 2000)], end_stream=True)
    await peer.exchange()
    assert len(peer.trailers(1)["grpc-message"]) < 500


async def test_joined_metadata_is_taken_apart(peer, echo):
    await ask(peer, 1, headers=[*REQUEST, ("x-bin", "AAE,/w==")])
    assert [value for name, value in echo.metadata if name == "x-bin"] == [b"\0\1", b"\xff"]


async def test_a_second_message_is_refused_before_the_end(peer):
    peer.h2.send_headers(1, request_to("Wait"))
    peer.h2.send_data(1, prefixed(b"one") + prefixed(b"two"))
    await peer.exchange()
    assert peer.trailers(1)["grpc-status"] == "12"
    await ask(peer, 3)


async def test_leaving_answers_what_was_on_its_way(wire, peer, echo, monkeypatch):
    monkeypatch.setattr(server_connection, "_LINGER_SECONDS", 0)
    wait = request_to("Wait")
    peer.h2.send_headers(1, wait)
    peer.h2.send_data(1, prefixed(b"one"), end_stream=True)
    await peer.exchange()
    wire.protocol.leave()
    on_its_way = frame(Kind.HEADERS, END_HEADERS, 3, block(wait))
    wire.feed(on_its_way + frame(Kind.DATA, END_STREAM, 3, prefixed(b"two")))
    first, ping = wire.frames()
    assert int.from_bytes(first.payload[:4], "big") == 2**31 - 1
    wire.feed(frame(Kind.PING, ACK, 0, ping.payload))
    (last,) = wire.frames()
    assert int.from_bytes(last.payload[:4], "big") == 3
    late = frame(Kind.HEADERS, END_HEADERS | END_STREAM, 5, block(wait))
    wire.feed(late)
    assert wire.frames()[-1].payload == ErrorCode.REFUSED_STREAM.to_bytes(4, "big")
    echo.release.set()
    await turns()
    assert {each.stream for each in wire.frames() if each.kind == Kind.DATA} == {1, 3}
    assert wire.is_closed
