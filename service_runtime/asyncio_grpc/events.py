"""Waiting for several things at once."""

import asyncio
import contextlib
from collections.abc import Sequence

__all__ = ["all_set"]


async def all_set(events: Sequence[asyncio.Event], seconds: float) -> None:
    """Wait until all of them are set, or so long."""

    async def each() -> None:
        for event in events:
            await event.wait()

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(each(), seconds)
