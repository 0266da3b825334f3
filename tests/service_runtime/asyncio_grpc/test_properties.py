"""What holds whatever arrives."""

import asyncio
import contextlib
import re
import string

import grpc
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_runtime.asyncio_grpc.client_connection import NotBegunError
from service_runtime.asyncio_grpc.errors import ProtocolError
from service_runtime.asyncio_grpc.frames import PREFACE, FrameReader, Kind, frame, settings_frame
from service_runtime.asyncio_grpc.header_blocks import BlockReader, block
from service_runtime.asyncio_grpc.messages import MessageReader, prefixed
from service_runtime.asyncio_grpc.metadata import (
    headers_of_metadata,
    metadata_of,
    seconds_of_timeout,
    status_headers,
    status_of,
    timeout_of_seconds,
)
from tests.support.echo import Echo
from tests.support.wire import client_wire, server_wire, turns

REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Echo"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"),)


def blocks():
    known = [REQUEST, RESPONSE, TRAILERS, (*REQUEST, ("grpc-timeout", "1m")), REQUEST[:2], ()]
    paths = ["Wait", "Repeat", "Each", "Join", "Break", "Nothing"]
    known += [(*REQUEST[:2], (":path", f"/test.Echo/{path}"), *REQUEST[3:]) for path in paths]
    return st.sampled_from(known).map(block) | st.binary(max_size=30)


def payloads():
    return st.one_of(
        st.binary(max_size=20),
        blocks(),
        st.binary(max_size=20).map(prefixed),
        st.sampled_from([b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0", b"\0\0\0\1", b"\0" * 8]),
    )


def frames():
    return st.builds(
        frame,
        st.sampled_from([*Kind, 10, 200]),
        st.sampled_from([0, 1, 4, 5]) | st.integers(0, 255),
        st.sampled_from([0, 1, 1, 1, 2, 3, 5, 2**31 - 1]),
        payloads(),
    )


def ordinary_call(stream):
    head = frame(Kind.HEADERS, 4, stream, block(REQUEST))
    return [head, frame(Kind.DATA, 1, stream, prefixed(b"hello"))]


def ordinary_answer(stream):
    head = frame(Kind.HEADERS, 4, stream, block(RESPONSE))
    body = frame(Kind.DATA, 0, stream, prefixed(b"hello"))
    return [head, body, frame(Kind.HEADERS, 5, stream, block(TRAILERS))]


def conversations(ordinary):
    """Frames of any kind among ordinary ones, or bytes."""
    mixed = st.lists(st.sampled_from([*ordinary(1), *ordinary(3)]) | frames(), max_size=12)
    return st.one_of(
        st.binary(max_size=60),
        mixed.map(b"".join),
        mixed.map(lambda each: settings_frame(()) + b"".join(each)),
    )


def cut(data, places):
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


places = st.lists(st.integers(0, 1000), max_size=4)


def says_why_it_ends(wire):
    assert not wire.is_closed or wire.frames()[-1].kind == Kind.GOAWAY


@settings(max_examples=400, deadline=None)
@given(conversations(ordinary_call), places, st.booleans())
def test_a_server_goes_on_or_says_why_it_ends(arriving, cuts, greets):
    async def scenario():
        async with server_wire(Echo(), max_streams=2) as wire:
            for part in cut((PREFACE if greets else b"") + arriving, cuts):
                wire.feed(part)
                await turns(2)
            says_why_it_ends(wire)

    asyncio.run(scenario())


@settings(max_examples=400, deadline=None)
@given(conversations(ordinary_answer), places)
def test_a_caller_goes_on_or_says_why_it_ends_and_its_calls_end(arriving, cuts):
    async def scenario():
        async with client_wire(max_message_bytes=1000) as wire:
            calls = [
                asyncio.create_task(wire.protocol.call(block(REQUEST), b"hello", None))
                for _ in range(2)
            ]
            await turns(1)
            for part in cut(arriving, cuts):
                wire.feed(part)
                await turns(2)
            if wire.is_closed:
                last = wire.frames()[-1]
                assert last.kind == Kind.GOAWAY or not wire.protocol.is_usable
            wire.close()
            await turns()
            for call in calls:
                assert call.done()
                with contextlib.suppress(grpc.aio.AioRpcError, NotBegunError):
                    assert call.result() == b"hello" or isinstance(call.result(), bytes)

    asyncio.run(scenario())


@given(st.lists(frames(), max_size=6), places)
def test_frames_are_the_same_however_they_arrive(sent, cuts):
    data = b"".join(sent)
    whole = list(FrameReader().feed(data))
    reader = FrameReader()
    assert [each for part in cut(data, cuts) for each in reader.feed(part)] == whole
    assert len(whole) == len(sent)


@given(st.lists(st.binary(max_size=50), max_size=6), places)
def test_messages_are_the_same_however_they_arrive(sent, cuts):
    reader = MessageReader(50)
    data = b"".join(prefixed(each) for each in sent)
    found = [each for part in cut(data, cuts) for each in reader.feed(part)]
    assert [each.read(50, "identity") for each in found] == sent
    assert reader.is_empty


names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=12)
values = st.text(string.printable[:95], max_size=20)
header_lists = st.lists(st.sampled_from(REQUEST) | st.tuples(names, values), max_size=6)


@given(
    st.lists(st.tuples(header_lists, st.sampled_from([None, 0, 64, 4096]), st.booleans())),
)
def test_blocks_say_what_they_say_to_the_library(sent):
    encoder, reader, plain = hpack.Encoder(), BlockReader(tuple), hpack.Decoder()
    for headers, table_size, huffman in sent:
        if table_size is not None:
            encoder.header_table_size = table_size
        for _ in range(2):  # the second time it may be known
            data = encoder.encode(headers, huffman=huffman)
            assert list(reader.read(data)) == list(plain.decode(data)) == headers


@given(header_lists)
def test_blocks_of_ours_are_read_by_the_library(headers):
    assert list(hpack.Decoder().decode(block(headers))) == headers


@given(st.binary(max_size=40))
def test_what_is_no_block_is_refused_and_nothing_else_happens(data):
    reader = BlockReader(tuple)
    try:
        expected = list(hpack.Decoder().decode(data, raw=True))
    except (hpack.HPACKError, IndexError):
        with pytest.raises(ProtocolError):
            reader.read(data)
    else:
        found = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in reader.read(data)
        ]
        assert found == expected


@given(st.floats(0, 1e8))
def test_a_timeout_is_told_a_little_longer(seconds):
    told = seconds_of_timeout(timeout_of_seconds(seconds))
    assert seconds <= told * (1 + 1e-9)
    assert told <= max(seconds * 1.02, seconds + 0.001)


@given(st.text(max_size=9) | st.from_regex(r"[0-9]{0,9}[HMSmunx]?", fullmatch=True))
def test_a_timeout_is_read_or_refused(text):
    if re.fullmatch("[0-9]{1,8}[HMSmun]", text, re.ASCII):
        assert seconds_of_timeout(text) >= 0
    else:
        with pytest.raises(ValueError, match="grpc-timeout"):
            seconds_of_timeout(text)


@given(st.sampled_from(list(grpc.StatusCode)), st.text(st.characters(codec="utf-8")))
def test_a_status_comes_back(code, details):
    headers = status_headers(code, details)
    assert all(value.isascii() and value.isprintable() for _, value in headers)
    assert status_of(headers) == (code, details)


@given(st.lists(st.tuples(names, values) | st.tuples(names.map("{}-bin".format), st.binary())))
def test_metadata_comes_back(metadata):
    ours = ("te", "content-type", "host")
    kept = [each for each in metadata if each[0] not in ours and not each[0].startswith("grpc-")]
    assert list(metadata_of(headers_of_metadata(kept))) == kept
