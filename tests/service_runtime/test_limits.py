"""What a server takes of one connection, seen in the frames on the wire (RFC 9113)."""

import asyncio
import struct

import pytest
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from tests.support.servers import serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3
ENHANCE_YOUR_CALM = 11


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + bytes(4) + payload


async def frames(reader: asyncio.StreamReader):
    while head := await reader.read(9):
        head += await reader.readexactly(9 - len(head)) if len(head) < 9 else b""
        yield head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))


@pytest.fixture
async def connection():
    async with serving(pb2_grpc.RecommenderServiceServicer()) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE + frame(SETTINGS))
        yield reader, writer
        writer.close()


async def test_a_connection_has_at_most_so_many_calls_at_once(connection):
    reader, _ = connection
    async with asyncio.timeout(10):
        async for kind, payload in frames(reader):
            if kind == SETTINGS and payload:
                settings = dict(struct.iter_unpack(">HI", payload))
                assert settings[MAX_CONCURRENT_STREAMS] == 1024
                return
    raise AssertionError("no settings")


async def test_a_caller_that_pings_again_and_again_is_hung_up_on(connection):
    reader, writer = connection
    writer.write(b"".join(frame(PING, struct.pack(">Q", number)) for number in range(20)))
    async with asyncio.timeout(10):
        async for kind, payload in frames(reader):
            if kind == GOAWAY:
                assert int.from_bytes(payload[4:8], "big") == ENHANCE_YOUR_CALM
                assert payload[8:] == b"too_many_pings"
                return
    raise AssertionError("it went on")
