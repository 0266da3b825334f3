"""A caller's connection to one server."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Final

import grpc

from service_runtime.asyncio_grpc.connection import Connection
from service_runtime.asyncio_grpc.errors import (
    ErrorCode,
    ProtocolError,
    StreamError,
    status_of_http,
    status_of_reset,
)
from service_runtime.asyncio_grpc.frames import (
    PREFACE,
    Setting,
    data_frame,
    settings_frame,
)
from service_runtime.asyncio_grpc.header_blocks import MAX_LIST_BYTES, Headers
from service_runtime.asyncio_grpc.messages import MessageError, MessageReader, prefixed
from service_runtime.asyncio_grpc.metadata import metadata_of, small_number, status_of
from service_runtime.asyncio_grpc.streams import STREAM_WINDOW_BYTES, Stream

__all__ = ["ClientConnection", "NotBegunError", "call_error"]

_LAST_STREAM: Final = 2**31 - 1
# What is sent and not taken by the other machine's kernel within this time ends the connection; by
# default a machine that vanished is waited for for a quarter of an hour.
_UNANSWERED_MS: Final = 5000


class NotBegunError(Exception):
    """The server has not begun with this call, so that it may be made again elsewhere."""


@dataclass(frozen=True, slots=True)
class _ResponseHead:
    """Headers or trailers of an answer."""

    headers: Headers
    http_status: str | None
    encoding: str
    status: tuple[grpc.StatusCode, str] | None


def _response_head(headers: Headers) -> _ResponseHead:
    found = dict(headers)
    encoding = found.get("grpc-encoding", "identity")
    return _ResponseHead(headers, found.get(":status"), encoding, status_of(headers))


class _Call(Stream):
    """One call on its way."""

    __slots__ = ("answer", "head", "message", "reader", "trailers")

    def __init__(self, stream_id: int, send_window: int, max_bytes: int) -> None:
        super().__init__(stream_id, send_window)
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.head: _ResponseHead | None = None
        self.message: bytes | None = None
        self.reader = MessageReader(max_bytes)
        self.trailers: Headers = ()

    def fail(self, code: grpc.StatusCode, details: str, trailers: Headers = ()) -> None:
        """End the call by a status."""
        if not self.answer.done():
            self.answer.set_exception(call_error(code, details, trailers))

    def refuse(self, why: str) -> None:
        """End the call, of which the server knows nothing."""
        if not self.answer.done():
            self.answer.set_exception(NotBegunError(why))


class ClientConnection(Connection[_Call, _ResponseHead]):
    """Sends calls of one message, and hands out their answers; one of those that are `opened`."""

    def __init__(self, max_message_bytes: int, opened: "set[ClientConnection]") -> None:
        super().__init__(_response_head)
        self.closed = asyncio.Event()
        self._opened = opened
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the server has said what it takes; fails where it hangs up before."""
        self._is_left = False
        self._max_message_bytes = max_message_bytes
        self._next_stream = 1
        self._goaway_text = ""

    @property
    def is_usable(self) -> bool:
        """Whether further calls may be made on it."""
        return not (self._is_left or self.is_closed)

    def settled(self) -> None:  # noqa: D102
        if not self.greeted.done():
            self.greeted.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)
        self._opened.add(self)
        kernel = transport.get_extra_info("socket")
        if kernel is not None:
            with contextlib.suppress(OSError):  # it may be lost already, which is told next
                kernel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)
        settings = settings_frame((
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_LIST_BYTES),
        ))  # fmt: skip
        self.write(PREFACE + settings + self.opening())

    async def call(
        self,
        block: bytes,
        message: bytes,
        timeout_seconds: float | None,
        trailers: list[tuple[str, str]] | None = None,
    ) -> bytes:
        """Make a call; `block`: its headers. What the answer ends with is added to `trailers`.

        Raises grpc.aio.AioRpcError, and NotBegunError where the server did nothing for it.
        """
        if len(self.streams) >= self.max_streams:
            raise call_error(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server takes {self.max_streams} calls of a connection at a time",
            )
        call = self._begin(block, message)
        timer = None
        if timeout_seconds is not None:
            timer = self._loop.call_later(timeout_seconds, self._expire, call)
        try:
            answer = await call.answer
            if trailers is not None:
                trailers.extend(call.trailers)
            return answer
        finally:
            if timer is not None:
                timer.cancel()
            # Where the answer has not come, nobody waits for it any more.
            self.reset(call, ErrorCode.CANCEL)
            if not self.is_usable and not self.streams:
                self.close()

    def leave(self) -> None:
        """Take no more calls; go once those that are under way have ended."""
        self._is_left = True
        if not self.streams:
            self.close()

    def end(self) -> None:
        """Give up the calls that are under way, and the connection."""
        for call in list(self.streams.values()):
            self._fail(call, grpc.StatusCode.UNAVAILABLE, "the channel was closed")
        self.close()

    def _begin(self, block: bytes, message: bytes) -> _Call:
        call = _Call(self._next_stream, self.outgoing.first_window, self._max_message_bytes)
        self._next_stream += 2
        if self._next_stream > _LAST_STREAM:
            self._is_left = True
        self.streams[call.id] = call
        headers, data = self.outgoing.header_frames(call.id, block, end=False), prefixed(message)
        if self.outgoing.send_at_once(call, len(data)):
            call.is_sent = True
            self.write(headers + data_frame(call.id, data, end=True))
        else:
            self.write(headers)
            self.outgoing.send(call, data, b"")
        return call

    def _expire(self, call: _Call) -> None:
        call.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self.reset(call, ErrorCode.CANCEL)

    def headers_received(self, stream_id: int, head: _ResponseHead, *, end: bool) -> None:  # noqa: D102
        call = self.streams.get(stream_id)
        if call is None:
            if self.is_idle(stream_id):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "an answer to no call")
            return
        informational = head.http_status is not None and head.http_status[:1] == "1"
        if informational and call.head is None and not end:
            return  # more headers follow
        if end:
            self._finish(call, head)
        elif call.head is None:
            call.head = head
            if head.http_status != "200":
                self._fail(call, *_http_error(head))
            elif head.encoding != "identity":
                self._fail(call, grpc.StatusCode.INTERNAL, f"grpc-encoding {head.encoding}")
        else:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "headers within an answer")

    def _finish(self, call: _Call, head: _ResponseHead) -> None:
        if head.status is None:
            code, details = _http_error(call.head or head)
        else:
            code, details = head.status
        if code is not grpc.StatusCode.OK:
            call.fail(code, details, head.headers)
        elif call.message is None or not call.reader.is_empty:
            call.fail(grpc.StatusCode.INTERNAL, "the answer is not one whole message")
        elif not call.answer.done():
            call.trailers = head.headers
            call.answer.set_result(call.message)
        if call.is_sent:
            self.remove(call)
        else:
            self.reset(call, ErrorCode.NO_ERROR)

    def data_received_on(self, stream: _Call, data: bytes, *, end: bool) -> None:  # noqa: D102
        try:
            messages = stream.reader.feed(data)
        except MessageError as error:
            self._fail(stream, error.code, str(error))
            return
        for message in messages:
            if stream.message is not None:
                self._fail(stream, grpc.StatusCode.INTERNAL, "an answer of several messages")
                return
            if message.is_compressed:  # which we never said that we read
                self._fail(stream, grpc.StatusCode.INTERNAL, "a compressed answer")
                return
            stream.message = message.data
        if end:
            self._fail(stream, grpc.StatusCode.INTERNAL, "the answer ends without a status")

    def _fail(self, call: _Call, code: grpc.StatusCode, details: str) -> None:
        call.fail(code, details)
        self.reset(call, ErrorCode.CANCEL)

    def stream_reset(self, stream: _Call, code: int) -> None:  # noqa: D102
        if code == ErrorCode.REFUSED_STREAM:
            stream.refuse("the server refused the stream")
            return
        stream.fail(status_of_reset(code), f"the stream was reset, HTTP/2 error code {code}")

    def goaway_received(self, last_stream: int, code: int, text: str) -> None:  # noqa: D102
        self._is_left = True
        self._goaway_text = f"GOAWAY {code} {text}".strip()
        for call in [call for call in self.streams.values() if call.id > last_stream]:
            self.remove(call)
            call.refuse(self._goaway_text)
        if not self.streams:
            self.close()

    def is_idle(self, stream_id: int) -> bool:  # noqa: D102
        return stream_id >= self._next_stream or not stream_id % 2

    def lost(self, error: Exception | None) -> None:  # noqa: D102
        why = self._goaway_text or (str(error) if error else "the server hung up")
        for call in self.streams.values():
            call.fail(grpc.StatusCode.UNAVAILABLE, f"the connection was lost: {why}")
        self.streams.clear()
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(f"the server hung up: {why}"))
            self.greeted.exception()  # nobody waits where connecting took too long
        self._opened.discard(self)
        self.closed.set()


def _http_error(head: _ResponseHead) -> tuple[grpc.StatusCode, str]:
    status = head.http_status or ""
    code = status_of_http(small_number(status))
    return code, f"an answer without a gRPC status: HTTP {status[:3] or 'without a status'}"


def call_error(code: grpc.StatusCode, details: str, trailers: Headers = ()) -> grpc.aio.AioRpcError:
    """Make the error that a call ends with."""
    try:
        metadata = metadata_of(trailers)
    except ValueError:
        metadata = ()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)
