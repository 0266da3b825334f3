"""A service of bytes with each kind of method, for tests of what carries calls."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from service_runtime.asyncio_grpc.channel import Channel
from service_runtime.asyncio_grpc.server import Limits, Server

__all__ = ["LIMITS", "MIB", "Echo", "call", "channel_to", "serving", "status_of"]

MIB = 1024 * 1024
LIMITS = {
    "max_message_bytes": 4 * MIB,
    "max_streams": 1024,
    "max_age_seconds": 300.0,
    "age_grace_seconds": 5.0,
    "min_ping_seconds": 10.0,
}


class Echo:
    """What it was asked, it answers; `Wait` does so once `release` is set."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.metadata = ()
        self.remaining = None

    def handler(self):
        unary = grpc.unary_unary_rpc_method_handler
        methods = {
            "Echo": unary(self.echo),
            "Refuse": unary(self.refuse),
            "Break": unary(self.break_down),
            "Wait": unary(self.wait),
            "Misread": unary(self.echo, request_deserializer=int),
            "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat),
            "Each": grpc.stream_stream_rpc_method_handler(self.each),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
        }
        return grpc.method_handlers_generic_handler("test.Echo", methods)

    async def echo(self, request, context):
        self.metadata = tuple(context.invocation_metadata())
        self.remaining = context.time_remaining()
        context.set_trailing_metadata((("x-length", str(len(request))), ("x-raw-bin", b"\x00\xff")))
        return request

    async def refuse(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, request.decode(), (("x-why", "gone"),))

    async def break_down(self, request, context):
        raise RuntimeError("for us alone")

    async def wait(self, request, context):
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def repeat(self, request, context):
        for _ in range(3):
            yield request

    async def each(self, requests, context):
        async for request in requests:
            yield request

    async def join(self, requests, context):
        return b"".join([request async for request in requests])


@asynccontextmanager
async def serving(echo, *, port=0, interceptor=None, **limits):
    """A server of ours; answers it and its port."""
    server = Server(Limits(**{**LIMITS, **limits}), interceptor)
    server.add_generic_rpc_handlers((echo.handler(),))
    port = await server.listen("127.0.0.1", port)
    try:
        yield server, port
    finally:
        await server.stop(0)


@asynccontextmanager
async def channel_to(port, **options):
    """A channel of ours."""
    channel = Channel(f"127.0.0.1:{port}", **{"max_message_bytes": 64 * MIB, **options})
    try:
        yield channel
    finally:
        await channel.close(0)


def call(channel, method, request=b"hello", **options):
    """Call a method of it."""
    return channel.unary_unary(f"/test.Echo/{method}")(request, **{"timeout": 10, **options})


async def status_of(call):
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value
