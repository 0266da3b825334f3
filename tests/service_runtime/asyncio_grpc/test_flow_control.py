"""Callers that take answers slowly, or not at all, or send more than is of use."""

import h2.config
import h2.connection
import h2.events
import h2.settings

from service_runtime.asyncio_grpc import server_connection
from service_runtime.asyncio_grpc.frames import (
    Kind,
    settings_frame,
)
from service_runtime.asyncio_grpc.messages import prefixed
from tests.support.http2_peer import REQUEST, Peer, ask, request_to
from tests.support.wire import turns


async def test_a_large_answer_waits_for_the_window(wire):
    peer = Peer(wire, client=True)
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1})
    await peer.exchange()
    message = bytes(range(256)) * 800
    peer.h2.send_headers(1, REQUEST)
    await peer.send_in_parts(1, prefixed(message))
    peer.h2.end_stream(1)
    await peer.exchange()
    assert len(peer.body(1)) == 1
    peer.h2.increment_flow_control_window(100, 1)
    await peer.exchange()
    assert len(peer.body(1)) == 101
    peer.h2.increment_flow_control_window(300_000, 1)
    await peer.exchange()
    assert len(peer.body(1)) == 65_535  # the connection's own window
    peer.h2.increment_flow_control_window(300_000)
    await peer.exchange()
    assert peer.body(1) == prefixed(message)
    assert peer.trailers(1)["grpc-status"] == "0"


async def test_a_window_may_shrink_below_what_is_used(wire):
    peer = Peer(wire, client=True)
    await peer.exchange()
    message = b"x" * 150_000
    peer.h2.send_headers(1, REQUEST)
    await peer.send_in_parts(1, prefixed(message))
    peer.h2.end_stream(1)
    await peer.exchange()
    assert len(peer.body(1)) == 65_535
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await peer.exchange()
    peer.h2.increment_flow_control_window(500_000)
    peer.h2.increment_flow_control_window(65_000, 1)
    await peer.exchange()
    assert len(peer.body(1)) == 65_535
    peer.h2.increment_flow_control_window(100_000, 1)
    await peer.exchange()
    assert peer.body(1) == prefixed(message)


async def test_a_call_given_up_while_its_answer_waits_leaves_nothing(wire, peer):
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1})
    await peer.exchange()
    peer.h2.send_headers(1, REQUEST)
    peer.h2.send_data(1, prefixed(b"hello"), end_stream=True)
    await peer.exchange()
    peer.h2.reset_stream(1)
    await peer.exchange()
    assert not wire.protocol.streams
    peer.h2.increment_flow_control_window(1000)
    await peer.exchange()
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    await ask(peer, 3)


async def test_whoever_does_not_read_is_not_read(wire, peer):
    wire.protocol.pause_writing()
    assert not wire.is_read
    wire.protocol.resume_writing()
    assert wire.is_read


async def test_requests_that_pile_up_are_refused(wire, peer, monkeypatch):
    monkeypatch.setattr(server_connection, "_MAX_HELD_BYTES", 100)
    for stream in (1, 3, 5):
        peer.h2.send_headers(stream, REQUEST)
        peer.h2.send_data(stream, prefixed(b"x" * 90)[:40])
        await peer.exchange()
    assert peer.trailers(5)["grpc-status"] == "8"
    peer.h2.send_data(1, prefixed(b"x" * 90)[40:60], end_stream=False)
    peer.h2.reset_stream(3)
    await peer.exchange()
    await ask(peer, 7, b"fits")


async def test_pings_while_an_answer_comes_are_welcome(wire):
    peer = Peer(wire, client=True)
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await peer.exchange()
    peer.h2.send_headers(1, REQUEST)
    peer.h2.send_data(1, prefixed(b"x" * 200), end_stream=True)
    await peer.exchange()
    for _ in range(10):
        peer.h2.ping(b"how fast")
        peer.h2.increment_flow_control_window(10, 1)
        await peer.exchange()
    assert not wire.is_closed


async def test_short_messages_wait_for_nobody(wire, peer, echo):
    """grpc's health servicer holds a lock while it writes."""
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await peer.exchange()
    peer.h2.send_headers(1, request_to("Repeat"))
    peer.h2.send_data(1, prefixed(b"hello"), end_stream=True)
    await peer.exchange()
    (call,) = wire.protocol.streams.values()
    assert call.task.done()
    peer.h2.increment_flow_control_window(1000, 1)
    await peer.exchange()
    assert peer.body(1) == prefixed(b"hello") * 3


async def test_long_messages_wait_until_they_are_taken(wire, peer):
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await peer.exchange()
    message = b"x" * 80_000
    peer.h2.send_headers(1, request_to("Repeat"))
    await peer.send_in_parts(1, prefixed(message))
    peer.h2.end_stream(1)
    await peer.exchange()
    (call,) = wire.protocol.streams.values()
    assert not call.task.done()
    assert len(call.unsent) == len(prefixed(message))
    peer.h2.increment_flow_control_window(300_000)
    peer.h2.increment_flow_control_window(300_000, 1)
    await peer.exchange()
    assert peer.body(1) == prefixed(message) * 3


async def test_whoever_reads_no_replies_is_hung_up_on(wire, peer):
    wire.protocol.pause_writing()
    for _ in range(1100):
        wire.feed(settings_frame(()))
    assert wire.is_closed


async def test_nothing_is_written_while_the_other_side_does_not_read(wire, peer):
    wire.protocol.pause_writing()
    peer.h2.send_headers(1, REQUEST)
    peer.h2.send_data(1, prefixed(b"hello"), end_stream=True)
    wire.feed(peer.h2.data_to_send())
    await turns()
    assert Kind.DATA not in [each.kind for each in wire.frames()]
    wire.protocol.resume_writing()
    assert [each.kind for each in wire.frames()] == [Kind.DATA, Kind.HEADERS]
