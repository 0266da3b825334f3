"""One caller's connection to a server: its calls begin and end with it."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc

from service_runtime.asyncio_grpc.answering import Methods, answer
from service_runtime.asyncio_grpc.connection import Connection
from service_runtime.asyncio_grpc.errors import ErrorCode, ProtocolError, StreamError
from service_runtime.asyncio_grpc.frames import (
    PREFACE,
    Kind,
    Setting,
    data_frame,
    frame,
    goaway_frame,
    reset_frame,
    settings_frame,
)
from service_runtime.asyncio_grpc.header_blocks import MAX_LIST_BYTES, block
from service_runtime.asyncio_grpc.messages import MessageError
from service_runtime.asyncio_grpc.request_head import RequestHead, request_head
from service_runtime.asyncio_grpc.server_call import ServerCall
from service_runtime.asyncio_grpc.streams import STREAM_WINDOW_BYTES

__all__ = ["Limits", "ServerConnection"]

_ALL_STREAMS: Final = 2**31 - 1
_LAST_PING: Final = b"the last"
_PREFACE_SECONDS: Final = 10.0
_MAX_PING_STRIKES: Final = 2
_NEVER: Final = -float("inf")
# Of requests whose calls are not over; one caller has no use for more.
_MAX_HELD_BYTES: Final = 64 * 1024 * 1024
# Hanging up on what is on its way makes the kernel throw away what the caller has not read yet, so
# the caller is let hang up first.
_LINGER_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 31_536_000.0  # a year; timers of thousands overflow


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for."""

    max_message_bytes: int
    max_streams: int
    max_age_seconds: float
    """Spread by a tenth, so that connections that came together do not leave together."""
    age_grace_seconds: float
    min_ping_seconds: float
    """Pings that come sooner one after another, with no answer between them, are too many."""


class ServerConnection(Connection[ServerCall, RequestHead]):
    """One of the connections that are `opened`."""

    def __init__(self, methods: Methods, limits: Limits, opened: "set[ServerConnection]") -> None:
        super().__init__(request_head)
        self.peer = ""
        self.closed = asyncio.Event()
        self._methods = methods
        self._limits = limits
        self._opened = opened
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_stream = 0
        self._until_stream = _ALL_STREAMS
        self._is_leaving = False
        self._preface = b""
        self._is_greeted = False
        self._timer: asyncio.TimerHandle
        self._last_ping = _NEVER
        self._ping_strikes = 0
        self._held_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)
        self._opened.add(self)
        self.peer = _peer_name(transport.get_extra_info("peername"))
        self._timer = self._loop.call_later(_PREFACE_SECONDS, self.abort)
        settings = settings_frame((
            (Setting.MAX_CONCURRENT_STREAMS, self._limits.max_streams),
            (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_LIST_BYTES),
        ))  # fmt: skip
        self.write(settings + self.opening())
        if self._methods.is_stopping:  # a handshake took longer than the listening
            self.leave()

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self._transport.pause_reading()  # who reads no answers is not read either

    def resume_writing(self) -> None:  # noqa: D102
        super().resume_writing()
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self._is_greeted:
            data = self._after_preface(data)
        if data:
            super().data_received(data)

    def _after_preface(self, data: bytes) -> bytes:
        self._preface += data
        start = self._preface[: len(PREFACE)]
        if not PREFACE.startswith(start):
            self.fail(ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2"))
            return b""
        if start != PREFACE:
            return b""
        rest, self._preface = self._preface[len(PREFACE) :], b""
        self._is_greeted = True
        self._timer.cancel()
        age = self._limits.max_age_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads only
        self._timer = self._loop.call_later(age, self._grow_old)
        return rest

    # Calls.

    def headers_received(self, stream_id: int, head: RequestHead, *, end: bool) -> None:  # noqa: D102
        call = self.streams.get(stream_id)
        if call is not None:
            if call.is_received:
                raise StreamError(ErrorCode.STREAM_CLOSED, "headers after the end")
            if not end:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "headers within a request")
            self._take_end(call)
            return
        if not stream_id % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream of an even number")
        if stream_id <= self._last_stream:
            return  # trailers of a call that was answered before it was heard out
        if stream_id > self._until_stream:
            self.write(reset_frame(stream_id, ErrorCode.REFUSED_STREAM))
            return
        self._last_stream = stream_id
        if self._has_too_many():
            self.write(reset_frame(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if head.is_malformed:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "these are no headers of a request")
        if head.refusal:
            self._refuse(stream_id, head, end=end)
            return
        self._begin(stream_id, head, end=end)

    def _has_too_many(self) -> bool:
        # Those that are given up have tasks until these hear of it: beginning and giving up again
        # and again is no way around the limit. Some of the tasks are of answers just sent.
        most = self._limits.max_streams
        return len(self.streams) >= most or len(self._tasks) >= 2 * most

    def _refuse(self, stream_id: int, head: RequestHead, *, end: bool) -> None:
        self.write(self.outgoing.header_frames(stream_id, block(head.refusal), end=True))
        if not end:
            self.write(reset_frame(stream_id, ErrorCode.NO_ERROR))

    def _begin(self, stream_id: int, head: RequestHead, *, end: bool) -> None:
        window = self.outgoing.first_window
        call = ServerCall(self, stream_id, window, head, self._limits.max_message_bytes)
        self.streams[stream_id] = call
        call.handler = self._methods.handler(head.details)
        if call.handler is None:
            call.is_received = end
            call.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        if head.timeout_seconds is not None:
            seconds = min(head.timeout_seconds, _LONGEST_SECONDS)
            call.timer = self._loop.call_later(seconds, self._expire, call)
        if call.handler.request_streaming:
            self._answer_soon(call)
        if end:
            self._take_end(call)

    def data_received_on(self, stream: ServerCall, data: bytes, *, end: bool) -> None:  # noqa: D102
        if stream.is_received:
            raise StreamError(ErrorCode.STREAM_CLOSED, "data after the end")
        stream.held_bytes += len(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MAX_HELD_BYTES:
            why = f"requests of one connection are {_MAX_HELD_BYTES} bytes at the most"
            self._give_up(stream, grpc.StatusCode.RESOURCE_EXHAUSTED, why)
            return
        try:
            stream.take(data)
        except MessageError as error:
            self._give_up(stream, error.code, str(error))
            return
        if end:
            self._take_end(stream)

    def _take_end(self, call: ServerCall) -> None:
        try:
            call.take_end()
            if not call.handler.request_streaming:
                self._answer_soon(call)
        except MessageError as error:
            self._give_up(call, error.code, str(error))

    def _give_up(self, call: ServerCall, code: grpc.StatusCode, why: str) -> None:
        call.end(code, why)
        self.reset(call, ErrorCode.CANCEL)  # where the end waits for the caller to allow more
        call.forget()

    def _answer_soon(self, call: ServerCall) -> None:
        call.task = task = self._loop.create_task(answer(self._methods, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def respond(
        self, call: ServerCall, headers: bytes, data: bytes, end: bytes | None = None
    ) -> None:
        """Send part of an answer, see CallWriter."""
        if call.id not in self.streams:
            return
        self.data_sent()
        out = self.outgoing
        frames = out.header_frames(call.id, headers, end=False) if headers else b""
        if end is None or not out.send_at_once(call, len(data)):
            self.write(frames)
            out.send(call, data, end)
            return
        call.is_sent = True
        if data:
            frames += data_frame(call.id, data, end=False)
        self.write(frames + out.header_frames(call.id, end, end=True))
        self.ended(call)

    def drained(self, stream: ServerCall) -> None:  # noqa: D102
        stream.drained()

    def ended(self, stream: ServerCall) -> None:  # noqa: D102
        if stream.timer is not None:
            stream.timer.cancel()
        if stream.is_received:
            self.remove(stream)
        else:
            self.reset(stream, ErrorCode.NO_ERROR)

    def removed(self, stream: ServerCall) -> None:  # noqa: D102
        self._held_bytes -= stream.held_bytes
        self._close_if_done()

    def data_sent(self) -> None:  # noqa: D102
        # Callers ping while an answer comes, to find out how fast it may.
        self._last_ping, self._ping_strikes = _NEVER, 0

    def _expire(self, call: ServerCall) -> None:
        self._give_up(call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def stream_reset(self, stream: ServerCall, code: int) -> None:  # noqa: ARG002, D102
        stream.forget()

    # The connection.

    def is_idle(self, stream_id: int) -> bool:  # noqa: D102
        return stream_id > self._last_stream and stream_id <= self._until_stream

    def last_taken(self) -> int:  # noqa: D102
        return self._last_stream

    def pinged(self) -> None:  # noqa: D102
        now = time.monotonic()
        if now - self._last_ping < self._limits.min_ping_seconds:
            self._ping_strikes += 1
            if self._ping_strikes > _MAX_PING_STRIKES:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._last_ping = now

    def leave(self) -> None:
        """Take no more calls; go once those that are here, or on their way, have ended."""
        if self._is_leaving or self.is_closed:
            return
        self._is_leaving = True
        if not self._is_greeted:
            self.write(goaway_frame(0, ErrorCode.NO_ERROR))
            self.close()
            return
        # What is on its way arrives before the reply to the ping, and is answered.
        self.write(
            goaway_frame(_ALL_STREAMS, ErrorCode.NO_ERROR) + frame(Kind.PING, 0, 0, _LAST_PING)
        )

    def pong_received(self, payload: bytes) -> None:  # noqa: D102
        if self._is_leaving and payload == _LAST_PING:
            self._until_stream = self._last_stream
            self.write(goaway_frame(self._last_stream, ErrorCode.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._until_stream != _ALL_STREAMS and not self.streams and not self.is_closed:
            self._timer.cancel()
            self._timer = self._loop.call_later(_LINGER_SECONDS, self.close)

    def _grow_old(self) -> None:
        self.leave()
        self._timer = self._loop.call_later(self._limits.age_grace_seconds, self.end)

    def end(self) -> None:
        """Give up the calls that are still here, and the connection."""
        for call in list(self.streams.values()):
            self._give_up(
                call, grpc.StatusCode.UNAVAILABLE, "the server ended before it had an answer"
            )
        self.write(goaway_frame(self._last_stream, ErrorCode.NO_ERROR))
        self.close()

    def lost(self, error: Exception | None) -> None:  # noqa: ARG002, D102
        self._timer.cancel()
        for call in self.streams.values():
            call.forget()
        self.streams.clear()
        self._opened.discard(self)
        self.closed.set()


def _peer_name(address: Any) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address or ''}"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
