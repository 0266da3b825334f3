"""A server that answers, and h2 as its peer, over a wire in memory."""

import pytest

from tests.support.echo import Echo
from tests.support.http2_peer import Peer
from tests.support.wire import server_wire


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
async def wire(echo):
    async with server_wire(echo, max_streams=10) as wire:
        yield wire


@pytest.fixture
async def peer(wire):
    peer = Peer(wire, client=True)
    await peer.exchange()
    return peer
