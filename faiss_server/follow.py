"""The threads that follow the store for as long as the server runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from faiss_server.holder import ReleaseHolder
from faiss_server.metrics import FaissServerMetrics
from releases.checksums import OnBytes
from releases.watch import watch

__all__ = ["following"]

# A store that does not answer must not hold up the end of the process.
_JOIN_SECONDS: Final = 2.0


@asynccontextmanager
async def following(
    holder: ReleaseHolder, metrics: FaissServerMetrics, poll_seconds: float
) -> AsyncIterator[None]:
    """Look at the store every `poll_seconds` while the context is open, from now on."""
    stop = threading.Event()
    looks: dict[str, Callable[[OnBytes], None]] = {
        "follow-releases": holder.refresh,
        "follow-withdrawals": lambda _: holder.look_while_busy(),
    }
    threads = [
        threading.Thread(
            target=watch,
            args=(look, poll_seconds, stop, metrics.poll_failures.inc),
            name=name,
            daemon=True,
        )
        for name, look in looks.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*(asyncio.to_thread(one.join, _JOIN_SECONDS) for one in threads))
