"""What goes out on a connection: headers at once, data as the other side allows it."""

from collections.abc import Collection
from typing import Final, Generic, Protocol, TypeVar

from service_runtime.asyncio_grpc.errors import ErrorCode, ProtocolError, StreamError
from service_runtime.asyncio_grpc.frames import MAX_FRAME_BYTES, data_frame, header_frames
from service_runtime.asyncio_grpc.streams import Stream

__all__ = ["DEFAULT_WINDOW_BYTES", "MAX_WINDOW_BYTES", "Outgoing"]

DEFAULT_WINDOW_BYTES: Final = 65_535
"""How much each side may send until it is told otherwise."""
MAX_WINDOW_BYTES: Final = 2**31 - 1
# Longer frames than that save nothing, and one of them is written whole.
_LONGEST_FRAME_BYTES: Final = 65_536
# HPACK's table of what was said before is not used by us, which the first block has to say: who is
# told so can make it as small as he likes (RFC 7541, section 4.2).
_NO_TABLE: Final = b"\x20"

StreamT = TypeVar("StreamT", bound=Stream)
StreamT_contra = TypeVar("StreamT_contra", bound=Stream, contravariant=True)


class _Connection(Protocol[StreamT_contra]):
    def write(self, data: bytes) -> None: ...
    def data_sent(self) -> None: ...
    def drained(self, stream: StreamT_contra) -> None: ...
    def ended(self, stream: StreamT_contra) -> None: ...


class Outgoing(Generic[StreamT]):
    """Keeps to the windows of the connection and of its streams (RFC 9113, section 5.2)."""

    def __init__(self, connection: _Connection[StreamT]) -> None:
        self._connection = connection
        self.first_window = DEFAULT_WINDOW_BYTES
        """How much of a new stream may be sent before the other side allows more."""
        self.is_paused = False
        """Whether the other side does not read what it is sent."""
        self._window = DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = MAX_FRAME_BYTES
        self._waiting: dict[int, StreamT] = {}
        self._block_start = _NO_TABLE

    def header_frames(self, stream_id: int, block: bytes, *, end: bool) -> bytes:
        """Lay headers out, to be sent before anything else is laid out."""
        start, self._block_start = self._block_start, b""
        return header_frames(stream_id, start + block, end=end)

    def send(self, stream: StreamT, data: bytes, end_block: bytes | None = None) -> None:
        """Send part of a message as soon as the other side allows it.

        `end_block` ends our side of the stream, by these trailers after the data; where it is
        empty, by the last of the data.
        """
        stream.unsent += data
        if end_block is not None:
            stream.end_block = end_block
        self._send_on(stream)

    def send_at_once(self, stream: StreamT, length: int) -> bool:
        """Answer whether `length` bytes of DATA may go out as one frame now; then they count."""
        if (
            length > self._max_frame_bytes
            or length > self._window
            or length > stream.send_window
            or stream.unsent
            or self.is_paused
        ):
            return False
        self._window -= length
        stream.send_window -= length
        return True

    def forget(self, stream: StreamT) -> None:
        """Send nothing more of a stream that is gone."""
        self._waiting.pop(stream.id, None)

    def resume(self) -> None:
        """The other side reads again."""
        self.is_paused = False
        self._send_what_waits()

    # What the other side allows.

    def allow(self, more: int) -> None:
        """Send so much more of all streams together. Raises ProtocolError for too much."""
        was_closed = self._window <= 0
        self._window += more
        if self._window > MAX_WINDOW_BYTES:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window")
        if was_closed:  # else nobody waits for it
            self._send_what_waits()

    def allow_of(self, stream: StreamT, more: int) -> None:
        """Send so much more of one stream. Raises StreamError for too much."""
        stream.send_window += more
        if stream.send_window > MAX_WINDOW_BYTES:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window")
        self._send_on(stream)

    def set_first_window(self, size: int, streams: Collection[StreamT]) -> None:
        """Begin streams with this window, and have those that are there get or lose as much.

        Raises ProtocolError for too much.
        """
        more, self.first_window = size - self.first_window, size
        widest = max((stream.send_window + more for stream in streams), default=size)
        if max(size, widest) > MAX_WINDOW_BYTES:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
        for stream in list(streams):
            stream.send_window += more
            if more > 0:
                self._send_on(stream)

    def set_max_frame_bytes(self, size: int) -> None:
        """Send no longer frames. Raises ProtocolError for a size that nobody may ask for."""
        if not MAX_FRAME_BYTES <= size < 2**24:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
        self._max_frame_bytes = min(size, _LONGEST_FRAME_BYTES)

    def _send_what_waits(self) -> None:
        for stream in list(self._waiting.values()):
            if self._window <= 0 or self.is_paused:
                return
            self._send_on(stream)

    def _send_on(self, stream: StreamT) -> None:
        """Send what is allowed of what waits, and the end where nothing waits any more."""
        unsent = stream.unsent
        while unsent:
            if self._window <= 0 or self.is_paused:
                self._waiting[stream.id] = stream
                return
            length = min(len(unsent), self._max_frame_bytes, self._window, stream.send_window)
            if length <= 0:
                # More of its own window goes on with it; who waits for all to have more is walked
                # through each time.
                self._waiting.pop(stream.id, None)
                return
            self._send_data(stream, length)
        self._waiting.pop(stream.id, None)
        if stream.end_block is None:
            self._connection.drained(stream)
        elif not stream.is_sent:
            stream.is_sent = True
            if stream.end_block:
                self._connection.write(self.header_frames(stream.id, stream.end_block, end=True))
            self._connection.ended(stream)

    def _send_data(self, stream: StreamT, length: int) -> None:
        self._window -= length
        stream.send_window -= length
        end = length == len(stream.unsent) and stream.end_block == b""
        self._connection.write(data_frame(stream.id, bytes(stream.unsent[:length]), end=end))
        self._connection.data_sent()
        del stream.unsent[:length]
