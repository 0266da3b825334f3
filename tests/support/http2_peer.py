"""python-hyper's h2 as the other side of a connection: it forgives nothing."""

import h2.config
import h2.connection
import h2.events

from service_runtime.asyncio_grpc.messages import prefixed
from tests.support.wire import turns

__all__ = ["OK", "REQUEST", "RESPONSE", "Peer", "ask", "request_to"]

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "here"),
    (":path", "/test.Echo/Echo"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def request_to(method, *more):
    return [*REQUEST[:3], (":path", f"/test.Echo/{method}"), *REQUEST[4:], *more]


class Peer:
    """The other side of a wire."""

    def __init__(self, wire, *, client):
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        )
        self.wire = wire
        self.events = []
        self.h2.initiate_connection()

    async def exchange(self):
        """Hand over what either side has to say until neither has anything."""
        await turns()
        while True:
            to_us, to_peer = self.h2.data_to_send(), self.wire.taken()
            if not to_us and not to_peer:
                return
            if to_us:
                self.wire.feed(to_us)
            if to_peer:
                self.events += self.h2.receive_data(to_peer)
            await turns()

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def body(self, stream):
        return b"".join(e.data for e in self.of(h2.events.DataReceived) if e.stream_id == stream)

    def trailers(self, stream):
        kinds = (h2.events.TrailersReceived, h2.events.ResponseReceived)
        return {
            name: value
            for event in self.of(kinds)
            if event.stream_id == stream
            for name, value in event.headers
        }

    async def send_in_parts(self, stream, data):
        """Send data as frames of usual length, and no end."""
        for start in range(0, len(data), 16_000):
            self.h2.send_data(stream, data[start : start + 16_000])
            await self.exchange()


async def ask(peer, stream, message=b"hello", headers=REQUEST):
    peer.h2.send_headers(stream, headers)
    peer.h2.send_data(stream, prefixed(message), end_stream=True)
    await peer.exchange()
    assert peer.trailers(stream)["grpc-status"] == "0"
    assert peer.body(stream) == prefixed(message)
