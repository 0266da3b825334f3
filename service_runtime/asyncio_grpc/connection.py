"""One HTTP/2 connection, either side: what each frame that comes is to it, and its end."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

from service_runtime.asyncio_grpc.errors import ErrorCode, ProtocolError, StreamError
from service_runtime.asyncio_grpc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    Frame,
    FrameReader,
    Kind,
    Setting,
    frame,
    goaway_frame,
    reset_frame,
    settings_of,
    unpadded,
    window_update_frame,
)
from service_runtime.asyncio_grpc.header_blocks import MAX_BLOCK_BYTES, BlockReader, Headers
from service_runtime.asyncio_grpc.outgoing import (
    DEFAULT_WINDOW_BYTES,
    MAX_WINDOW_BYTES,
    Outgoing,
)
from service_runtime.asyncio_grpc.streams import ReceiveWindow, Stream

__all__ = ["Connection"]

_CONNECTION_WINDOW_BYTES: Final = 64 * 1024 * 1024
_DEFAULT_MAX_STREAMS: Final = 2**31 - 1
# Replies that pile up before somebody who reads nothing: pings and settings cost him less than us.
_MAX_UNREAD_REPLIES: Final = 1000
_FLUSH_SECONDS: Final = 2.0
# Each may change the windows of all streams.
_MAX_SETTINGS: Final = 1000


StreamT = TypeVar("StreamT", bound=Stream)
HeadT = TypeVar("HeadT")


class Connection(asyncio.Protocol, Generic[StreamT, HeadT]):
    """What both sides of a connection do alike; `HeadT` is what a side makes of headers."""

    def __init__(self, head_of: Callable[[Headers], HeadT]) -> None:
        self.streams: dict[int, StreamT] = {}
        """Those that have not ended on both sides."""
        self.is_closed = False
        self.max_streams = _DEFAULT_MAX_STREAMS
        """How many streams the other side takes at a time."""
        self.outgoing: Outgoing[StreamT] = Outgoing(self)
        self._window = ReceiveWindow(_CONNECTION_WINDOW_BYTES)
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader()
        self._blocks = BlockReader(head_of)
        self._unfinished: tuple[int, int, bytearray] | None = None
        self._unread_replies = 0
        self._settings_received = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._handlers: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._on_data,
            Kind.HEADERS: self._on_headers,
            Kind.CONTINUATION: self._on_continuation,
            Kind.PRIORITY: self._on_priority,
            Kind.RST_STREAM: self._on_reset,
            Kind.SETTINGS: self._on_settings,
            Kind.PUSH_PROMISE: self._on_push_promise,
            Kind.PING: self._on_ping,
            Kind.GOAWAY: self._on_goaway,
            Kind.WINDOW_UPDATE: self._on_window_update,
        }

    # What the sides do in their own way.

    @abstractmethod
    def headers_received(self, stream_id: int, head: HeadT, *, end: bool) -> None:
        """Take a block of headers; `end`: the other side says no more on this stream.

        Raises ProtocolError and StreamError.
        """

    @abstractmethod
    def data_received_on(self, stream: StreamT, data: bytes, *, end: bool) -> None:
        """Take a part of a stream. Raises StreamError."""

    @abstractmethod
    def stream_reset(self, stream: StreamT, code: int) -> None:
        """The other side gave the stream up; it is among `streams` no more."""

    @abstractmethod
    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody has begun this stream yet."""

    def goaway_received(self, last_stream: int, code: int, text: str) -> None:
        """The other side takes no streams after `last_stream`."""

    def settled(self) -> None:
        """The other side's first settings are here."""

    def removed(self, stream: StreamT) -> None:
        """The stream is among `streams` no more."""

    def data_sent(self) -> None:
        """Part of a message is sent."""

    def drained(self, stream: StreamT) -> None:
        """All that there was to send on this stream is sent."""

    def ended(self, stream: StreamT) -> None:
        """Our side of the stream has ended."""

    def pinged(self) -> None:
        """Take note of a ping. Raises ProtocolError."""

    def pong_received(self, payload: bytes) -> None:
        """Take the reply to a ping of ours."""

    def lost(self, error: Exception | None) -> None:
        """The connection has ended, whoever ended it."""

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self.is_closed:
            try:
                self._take_all(data)
            except ProtocolError as error:
                self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.is_closed = True
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self.lost(exc)

    def pause_writing(self) -> None:  # noqa: D102
        self.outgoing.is_paused = True

    def resume_writing(self) -> None:  # noqa: D102
        self._unread_replies = 0
        self.outgoing.resume()

    # What callers of either side use.

    def write(self, data: bytes) -> None:
        """Send frames."""
        if data and not self.is_closed:
            self._transport.write(data)

    def reset(self, stream: StreamT, code: ErrorCode) -> None:
        """Give a stream up."""
        if self.remove(stream):
            self.write(reset_frame(stream.id, code))

    def remove(self, stream: StreamT) -> bool:
        """Forget a stream that has ended; answer whether it was there."""
        if self.streams.pop(stream.id, None) is None:
            return False
        self.outgoing.forget(stream)
        self.removed(stream)
        return True

    def fail(self, error: ProtocolError) -> None:
        """End the connection for what the other side did."""
        self.write(goaway_frame(self.last_taken(), error.code, str(error)))
        self.close()

    def close(self) -> None:
        """End the connection once what was written is sent, or nobody takes it."""
        if not self.is_closed:
            self.is_closed = True
            self._transport.close()
            self._flush_timer = self._loop.call_later(_FLUSH_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """End the connection at once."""
        self.is_closed = True
        self._transport.abort()

    def last_taken(self) -> int:
        """Answer the last stream of the other side that something is or was done for."""
        return 0

    def opening(self) -> bytes:
        """Lay out how much the other side may send on the connection as a whole."""
        return window_update_frame(0, _CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)

    # Frames.

    def _take_all(self, data: bytes) -> None:
        for received in self._frames.feed(data):
            self._take(received)
            if self.is_closed:
                return

    def _take(self, received: Frame) -> None:
        kind = received.kind
        if self._unfinished is not None and kind != Kind.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a block of headers was interrupted")
        if not self._settings_received and kind != Kind.SETTINGS:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        handler = self._handlers.get(kind)
        if handler is None:
            return  # of an extension that we do not know
        try:
            handler(received)
        except StreamError as error:
            stream = self.streams.get(received.stream)
            if stream is None:
                self.write(reset_frame(received.stream, error.code))
            else:
                self.reset(stream, error.code)
                self.stream_reset(stream, error.code)

    def _on_data(self, received: Frame) -> None:
        self._check_began(received)
        # Padding counts, and so does what comes for streams that are gone.
        if more := self._window.take(len(received.payload)):
            self.write(window_update_frame(0, more))
        stream = self.streams.get(received.stream)
        if stream is None:
            return
        end = bool(received.flags & END_STREAM)
        if not end and (more := stream.receive_window.take(len(received.payload))):
            self.write(window_update_frame(stream.id, more))
        self.data_received_on(stream, unpadded(received.flags, received.payload), end=end)

    def _on_headers(self, received: Frame) -> None:
        if not received.stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "headers of no stream")
        block = unpadded(received.flags, received.payload, prioritized=True)
        if received.flags & END_HEADERS:
            self._take_block(received.stream, received.flags, block)
        else:
            self._unfinished = (received.stream, received.flags, bytearray(block))

    def _on_continuation(self, received: Frame) -> None:
        if self._unfinished is None or received.stream != self._unfinished[0]:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        stream_id, flags, block = self._unfinished
        block += received.payload
        if not received.payload and not received.flags & END_HEADERS:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a continuation by nothing")
        if len(block) > MAX_BLOCK_BYTES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many bytes of headers")
        if received.flags & END_HEADERS:
            self._unfinished = None
            self._take_block(stream_id, flags, bytes(block))

    def _take_block(self, stream_id: int, flags: int, block: bytes) -> None:
        # Read in any case: later blocks refer to it.
        head = self._blocks.read(block)
        self.headers_received(stream_id, head, end=bool(flags & END_STREAM))

    def _on_priority(self, received: Frame) -> None:
        if not received.stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a priority of no stream")
        if len(received.payload) != 5:
            raise StreamError(ErrorCode.FRAME_SIZE_ERROR, "a priority of another length")

    def _on_reset(self, received: Frame) -> None:
        _check_length(received, 4)
        self._check_began(received)
        stream = self.streams.get(received.stream)
        if stream is not None and self.remove(stream):
            self.stream_reset(stream, int.from_bytes(received.payload, "big"))

    def _on_settings(self, received: Frame) -> None:
        if received.stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if received.flags & ACK:
            _check_length(received, 0)
            return
        self._settings_received += 1
        if self._settings_received > _MAX_SETTINGS:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        for name, value in dict(settings_of(received.payload)).items():
            self._set(name, value)
        self._reply(frame(Kind.SETTINGS, ACK, 0, b""))
        if self._settings_received == 1:
            self.settled()

    def _set(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            self.outgoing.set_first_window(value, self.streams.values())
        elif name == Setting.MAX_FRAME_SIZE:
            self.outgoing.set_max_frame_bytes(value)
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH")

    def _on_push_promise(self, _: Frame) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "nobody asked for a push")

    def _on_ping(self, received: Frame) -> None:
        _check_length(received, 8)
        if received.stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a ping of a stream")
        if received.flags & ACK:
            self.pong_received(received.payload)
            return
        self.pinged()
        self._reply(frame(Kind.PING, ACK, 0, received.payload))

    def _on_goaway(self, received: Frame) -> None:
        if len(received.payload) < 8 or received.stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a GOAWAY of another form")
        last = int.from_bytes(received.payload[:4], "big") & MAX_WINDOW_BYTES
        code = int.from_bytes(received.payload[4:8], "big")
        self.goaway_received(last, code, received.payload[8:].decode(errors="replace"))

    def _on_window_update(self, received: Frame) -> None:
        _check_length(received, 4)
        more = int.from_bytes(received.payload, "big") & MAX_WINDOW_BYTES
        if not received.stream:
            if not more:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more by nothing")
            self.outgoing.allow(more)
            return
        self._check_began(received)
        if not more:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "more by nothing")
        if (stream := self.streams.get(received.stream)) is not None:
            self.outgoing.allow_of(stream, more)

    def _check_began(self, received: Frame) -> None:
        if not received.stream or self.is_idle(received.stream):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream that is not begun")

    def _reply(self, data: bytes) -> None:
        if self.outgoing.is_paused:
            self._unread_replies += 1
            if self._unread_replies > _MAX_UNREAD_REPLIES:
                self.abort()
                return
        self.write(data)


def _check_length(received: Frame, length: int) -> None:
    if len(received.payload) != length:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(received.payload)} bytes")
