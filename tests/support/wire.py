"""A connection without a network: what is written is kept, what is to arrive is handed over."""

import asyncio
from contextlib import asynccontextmanager

from service_runtime.asyncio_grpc.client_connection import ClientConnection
from service_runtime.asyncio_grpc.frames import PREFACE, Frame, FrameReader
from service_runtime.asyncio_grpc.server import Limits, Server
from service_runtime.asyncio_grpc.server_connection import ServerConnection
from tests.support.echo import LIMITS

__all__ = ["Wire", "client_wire", "server_wire", "turns"]


class Wire(asyncio.Transport):
    """The transport of one connection."""

    def __init__(self, protocol):
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.is_closed = False
        self.is_read = True
        protocol.connection_made(self)

    def write(self, data):
        assert not self.is_closed
        self.written += data

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self):
        self.is_read = False

    def resume_reading(self):
        self.is_read = True

    def is_closing(self):
        return self.is_closed

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 5) if name == "peername" else default

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data

    def frames(self) -> list[Frame]:
        """The same, as frames."""
        data = self.taken()
        return list(FrameReader().feed(data.removeprefix(PREFACE)))

    def feed(self, data: bytes) -> None:
        """Have it arrive, unless there is nobody to receive it."""
        if not self.is_closed:
            self.protocol.data_received(data)


async def turns(count: int = 5) -> None:
    """Let the event loop go on for so long."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def _watched(wire):
    """Nothing may be left of a connection that is lost, nor fail where nobody sees it."""
    unseen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    before = asyncio.all_tasks()
    yield wire
    wire.close()
    await turns()
    assert not wire.protocol.streams
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}
    assert not unseen


@asynccontextmanager
async def server_wire(echo, **limits):
    """A connection of a server."""
    chosen = Limits(**{**LIMITS, **limits})
    server = Server(chosen)
    server.add_generic_rpc_handlers((echo.handler(),))
    async with _watched(Wire(ServerConnection(server, chosen, set()))) as wire:
        yield wire


@asynccontextmanager
async def client_wire(max_message_bytes=1_000_000):
    """A connection of a caller."""
    async with _watched(Wire(ClientConnection(max_message_bytes, set()))) as wire:
        yield wire
