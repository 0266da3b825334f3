"""Messages as gRPC sends them: whether it is compressed, its length, and the message."""

import zlib
from struct import Struct
from typing import Final, NamedTuple

import grpc

__all__ = ["ENCODINGS", "Message", "MessageError", "MessageReader", "prefixed"]

_PREFIX = Struct(">BI")

_ZLIB_BITS: Final = {"gzip": 31, "deflate": 15}

ENCODINGS: Final = "identity,deflate,gzip"
"""What messages may be compressed by, as `grpc-accept-encoding` says it."""


class MessageError(Exception):
    """A message that cannot be taken; the call ends with this status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Message(NamedTuple):
    """One message as it came."""

    is_compressed: int
    data: bytes

    def read(self, max_bytes: int, encoding: str) -> bytes:
        """Answer what it says; `encoding`, one of ENCODINGS, is what it may be compressed by.

        Raises MessageError where it cannot be read, or is longer than `max_bytes` when it is.
        """
        if not self.is_compressed:
            return self.data
        bits = _ZLIB_BITS.get(encoding)
        if bits is None:
            raise MessageError(
                grpc.StatusCode.INTERNAL, "a compressed message, and no grpc-encoding that says how"
            )
        inflater = zlib.decompressobj(bits)
        try:
            whole = inflater.decompress(self.data, max_bytes + 1)
        except zlib.error as error:
            raise MessageError(grpc.StatusCode.INTERNAL, f"{encoding}: {error}") from None
        _check_length(len(whole), max_bytes)
        if not inflater.eof:
            raise MessageError(grpc.StatusCode.INTERNAL, f"{encoding}: the end is missing")
        return whole


class MessageReader:
    """Puts the messages of one stream together; they are inflated by who takes them."""

    __slots__ = ("_max_bytes", "_rest", "_wanted")

    def __init__(self, max_bytes: int) -> None:
        self._rest = bytearray()
        self._wanted = 0
        self._max_bytes = max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether no part of a further message is here."""
        return not self._rest

    def feed(self, data: bytes) -> list[Message]:
        """Answer the messages that are whole now. Raises MessageError for one that is too long."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        messages: list[Message] = []
        start, end = 0, len(data)
        self._wanted = 5
        while end - start >= 5:
            is_compressed, length = _PREFIX.unpack_from(data, start)
            _check_length(length, self._max_bytes)
            after = start + 5 + length
            if after > end:
                self._wanted = after - start
                break
            messages.append(Message(is_compressed, data[start + 5 : after]))
            start = after
        if start < end:
            self._rest += data[start:]
        return messages


def _check_length(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise MessageError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Received message larger than max ({length} vs. {max_bytes})",
        )


def prefixed(message: bytes) -> bytes:
    """Put before a message what gRPC puts there."""
    return _PREFIX.pack(0, len(message)) + message
