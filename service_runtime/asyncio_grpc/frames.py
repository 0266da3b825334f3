"""HTTP/2 frames (RFC 9113, sections 4 and 6), from bytes and to bytes."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from service_runtime.asyncio_grpc.errors import ErrorCode, ProtocolError

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "MAX_FRAME_BYTES",
    "PREFACE",
    "Frame",
    "FrameReader",
    "Kind",
    "Setting",
    "data_frame",
    "frame",
    "goaway_frame",
    "header_frames",
    "reset_frame",
    "settings_frame",
    "settings_of",
    "unpadded",
    "window_update_frame",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""

MAX_FRAME_BYTES: Final = 16_384
"""The longest payload that everybody takes; we ask nobody for longer ones."""

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20

_HEAD = Struct(">HBBBI")  # the length's 24 bits are a short and a byte
_SETTING = Struct(">HI")
_STREAM_BITS: Final = 0x7FFF_FFFF


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """What each side can ask of the other."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Frame(NamedTuple):
    """One frame; `kind` may be one that nobody has defined yet."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts what arrives into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Answer the frames that are whole now. Raises ProtocolError for one that is too long."""
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while end - start >= 9:
            upper, lower, kind, flags, stream = _HEAD.unpack_from(data, start)
            length = upper << 8 | lower
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            after = start + 9 + length
            if after > end:
                break
            # Before it is handed out: whoever takes it may stop in the midst of the loop.
            payload, start = data[start + 9 : after], after
            yield Frame(kind, flags, stream & _STREAM_BITS, payload)
        self._rest = data[start:]


def frame(kind: Kind, flags: int, stream: int, payload: bytes) -> bytes:
    """Lay out one frame."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def data_frame(stream: int, payload: bytes, *, end: bool) -> bytes:
    """Lay out a part of a message."""
    return frame(Kind.DATA, END_STREAM if end else 0, stream, payload)


def header_frames(stream: int, block: bytes, *, end: bool) -> bytes:
    """Lay out a block of headers, as one frame and as many continuations as it takes."""
    flags = END_STREAM if end else 0
    if len(block) <= MAX_FRAME_BYTES:
        return frame(Kind.HEADERS, flags | END_HEADERS, stream, block)
    first, *rest = (
        block[start : start + MAX_FRAME_BYTES] for start in range(0, len(block), MAX_FRAME_BYTES)
    )
    *middle, last = rest
    return b"".join([
        frame(Kind.HEADERS, flags, stream, first),
        *(frame(Kind.CONTINUATION, 0, stream, part) for part in middle),
        frame(Kind.CONTINUATION, END_HEADERS, stream, last),
    ])  # fmt: skip


def settings_frame(settings: Iterable[tuple[Setting, int]]) -> bytes:
    """Lay out settings."""
    payload = b"".join(_SETTING.pack(*setting) for setting in settings)
    return frame(Kind.SETTINGS, 0, 0, payload)


def reset_frame(stream: int, code: ErrorCode) -> bytes:
    """Lay out the end of a stream that is given up."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway_frame(last_stream: int, code: ErrorCode, text: str = "") -> bytes:
    """Lay out the end of a connection: of streams after `last_stream` nothing will be done."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()
    return frame(Kind.GOAWAY, 0, 0, payload[:MAX_FRAME_BYTES])


def window_update_frame(stream: int, more: int) -> bytes:
    """Allow `more` bytes of a stream, or of the connection (stream 0)."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def settings_of(payload: bytes) -> Iterator[tuple[int, int]]:
    """Read settings. Raises ProtocolError where the length is that of no settings."""
    if len(payload) % _SETTING.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "settings of an odd length")
    return _SETTING.iter_unpack(payload)


def unpadded(flags: int, payload: bytes, *, prioritized: bool = False) -> bytes:
    """Answer the payload without padding and, of HEADERS, without priority.

    Raises ProtocolError where there is more of them than payload.
    """
    start, end = 0, len(payload)
    if flags & _PADDED:
        start = 1
        end -= payload[0] if payload else 1
    if prioritized and flags & _PRIORITY:
        start += 5
    if start > end:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[start:end] if start or end != len(payload) else payload
