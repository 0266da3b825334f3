"""One call's part of a connection, and how much of it may be received."""

from typing import Final

__all__ = ["STREAM_WINDOW_BYTES", "ReceiveWindow", "Stream"]

STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How much of a stream the other side may send ahead: messages of usual size never wait."""


class ReceiveWindow:
    """How much the other side may send, of a stream or of a connection."""

    __slots__ = ("_received", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._received = 0

    def take(self, length: int) -> int:
        """Count what came; answer how much more to allow now: nothing until half has come."""
        self._received += length
        if self._received < self._size // 2:
            return 0
        more, self._received = self._received, 0
        return more


class Stream:
    """One call's part of a connection."""

    __slots__ = ("end_block", "id", "is_sent", "receive_window", "send_window", "unsent")

    def __init__(self, stream_id: int, send_window: int) -> None:
        self.id = stream_id
        self.send_window = send_window
        self.receive_window = ReceiveWindow(STREAM_WINDOW_BYTES)
        self.unsent = bytearray()
        """What waits for the other side to allow more."""
        self.end_block: bytes | None = None
        """Trailers that follow `unsent` and end the stream; empty: the last DATA ends it."""
        self.is_sent = False
        """Whether our side has said its last."""
