"""One call at the server: what its handler sees of it, and what it has received and sent."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NoReturn, Protocol

import grpc

from service_runtime.asyncio_grpc.header_blocks import Headers, block
from service_runtime.asyncio_grpc.messages import Message, MessageError, MessageReader, prefixed
from service_runtime.asyncio_grpc.metadata import Metadata, headers_of_metadata, status_headers
from service_runtime.asyncio_grpc.request_head import OK_HEADERS, CallDetails, RequestHead
from service_runtime.asyncio_grpc.streams import Stream

__all__ = ["CallWriter", "MethodHandler", "ServerCall"]

MethodHandler = Any
"""grpc.RpcMethodHandler, which is generic in its type stubs only."""

_OK: Final = grpc.StatusCode.OK
_OK_BLOCK: Final = block(OK_HEADERS)
_OK_STATUS_BLOCK: Final = block(status_headers(_OK, None))
_MAX_UNSENT_BYTES: Final = 65_536


class CallWriter(Protocol):
    """The connection, as a call uses it."""

    peer: str

    def respond(
        self, call: "ServerCall", headers: bytes, data: bytes, end: bytes | None = None
    ) -> None:
        """Send headers, part of a message and, with the last part, trailers; empty: none of it."""


class ServerCall(Stream):
    """A call. Handlers know it as `grpc.aio.ServicerContext`, of which this is what they use."""

    __slots__ = (
        "_code",
        "_deadline",
        "_details",
        "_has_answered",
        "_head",
        "_max_bytes",
        "_messages",
        "_more",
        "_reader",
        "_room",
        "_trailing",
        "_writer",
        "handler",
        "held_bytes",
        "is_received",
        "serialize",
        "task",
        "timer",
    )

    def __init__(
        self,
        writer: CallWriter,
        stream_id: int,
        send_window: int,
        head: RequestHead,
        max_bytes: int,
    ) -> None:
        super().__init__(stream_id, send_window)
        self._writer = writer
        self._head = head
        seconds = head.timeout_seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._max_bytes = max_bytes
        self._reader = MessageReader(max_bytes)
        self._messages: deque[Message] = deque()
        self.held_bytes = 0
        """Of what the caller sent, for as long as the call lasts."""
        self._more: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._has_answered = False
        self._code = _OK
        self._details: str | None = None
        self._trailing: Headers = ()
        self.is_received = False
        """Whether the caller has sent all that it will."""
        self.handler: MethodHandler = None
        self.serialize: Callable[[Any], bytes] | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    # For handlers, with the names and meanings of grpc.aio.ServicerContext.

    def time_remaining(self) -> float | None:
        """Answer the seconds left to the caller's deadline, None where it set none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """Answer what the caller sent along."""
        return self._head.details.invocation_metadata

    def peer(self) -> str:
        """Answer the caller's address, such as `ipv4:127.0.0.1:5000`."""
        return self._writer.peer

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send this after the answer. Raises ValueError for what cannot be metadata."""
        self._trailing = headers_of_metadata(trailing_metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """End the call by this status once the handler returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Say why."""
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Answer the status that was set."""
        return self._code

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call by this status now; raises AbortError, which handlers let pass."""
        self._code, self._details = code, details
        self._trailing = (*self._trailing, *headers_of_metadata(trailing_metadata))
        raise grpc.aio.AbortError

    async def write(self, message: Any) -> None:
        """Send one of several answers; waits where the caller does not take them.

        Short ones never wait: grpc's health servicer holds a lock meanwhile that others want.
        """
        data = message if self.serialize is None else self.serialize(message)
        self._writer.respond(self, self._first_headers(), prefixed(data))
        while len(self.unsent) > _MAX_UNSENT_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    # For the connection.

    @property
    def details_of_call(self) -> CallDetails:
        """Answer what the handler is looked up by."""
        return self._head.details

    def take(self, data: bytes) -> None:
        """Take a part of what the caller sends. Raises MessageError."""
        messages = self._reader.feed(data)
        if messages:
            self._messages.extend(messages)
            if len(self._messages) > 1 and not self.handler.request_streaming:
                raise _not_one(len(self._messages))
            self._wake()

    def take_end(self) -> None:
        """Take note that no more will come. Raises MessageError where that is too early."""
        self.is_received = True
        self._wake()
        if not self._reader.is_empty:
            raise MessageError(grpc.StatusCode.INTERNAL, "the request ends within a message")

    def only_message(self) -> bytes:
        """Answer the request of a method that takes one. Raises MessageError for more or none."""
        if len(self._messages) != 1:
            raise _not_one(len(self._messages))
        return self._read_next()

    async def each_message(self, read: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Answer messages as they come."""
        while True:
            while self._messages:
                yield read(self._read_next())
            if self.is_received:
                return
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def _read_next(self) -> bytes:
        return self._messages.popleft().read(self._max_bytes, self._head.encoding)

    def answer(self, message: bytes) -> None:
        """Send the one answer, and the end; the status where it is not OK."""
        if self._code is not _OK:
            self.end(self._code, self._details)
            return
        trailers = self._trailers(_OK, None)
        self._writer.respond(self, self._first_headers(), prefixed(message), trailers)

    def end(self, code: grpc.StatusCode, details: str | None) -> None:
        """Send the end, unless it was; what waits to be sent goes before it."""
        if self.end_block is not None:
            return
        if self._has_answered:
            self._writer.respond(self, b"", b"", self._trailers(code, details))
            return
        headers = (*OK_HEADERS, *status_headers(code, details), *self._trailing)
        self._writer.respond(self, b"", b"", block(headers))

    def end_as_set(self) -> None:
        """Send the end with the status that the handler set."""
        self.end(self._code, self._details)

    def drained(self) -> None:
        """Let whoever waits to send more go on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def forget(self) -> None:
        """Stop what goes on for this call: there is nobody to answer."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def _first_headers(self) -> bytes:
        if self._has_answered:
            return b""
        self._has_answered = True
        return _OK_BLOCK

    def _trailers(self, code: grpc.StatusCode, details: str | None) -> bytes:
        if code is _OK and not self._trailing:
            return _OK_STATUS_BLOCK
        return block((*status_headers(code, details), *self._trailing))

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


def _not_one(count: int) -> MessageError:
    return MessageError(
        grpc.StatusCode.UNIMPLEMENTED, f"this method takes one message, and {count} were sent"
    )
