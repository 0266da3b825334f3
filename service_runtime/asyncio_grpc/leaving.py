"""The end of several connections at once."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

__all__ = ["all_closed", "let_go"]


class _Connection(Protocol):
    closed: asyncio.Event

    def leave(self) -> None: ...
    def end(self) -> None: ...


async def let_go(connections: Sequence[_Connection], grace_seconds: float) -> None:
    """Have them take no more calls; end those that are still there after so long."""
    for connection in connections:
        connection.leave()
    try:
        await all_closed(connections, grace_seconds)
    finally:
        for connection in connections:
            connection.end()


async def all_closed(connections: Sequence[_Connection], seconds: float) -> None:
    """Wait until all of them are closed, or so long."""

    async def each() -> None:
        for connection in connections:
            await connection.closed.wait()

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(each(), seconds)
