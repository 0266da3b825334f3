"""The threads that deal with the store for as long as the server runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from faiss_server.holder import ReleaseHolder
from faiss_server.metrics import FaissServerMetrics
from releases.checksums import OnBytes
from releases.watch import watch

__all__ = ["Looks", "looking", "looks_of"]

# A store that does not answer must not hold up the end of the process.
_JOIN_SECONDS: Final = 2.0


Looks = Mapping[str, Callable[[OnBytes], None]]


def looks_of(holder: ReleaseHolder) -> Looks:
    """Name what follows the store: new releases, and beside them what cannot wait for a fetch."""
    return {
        "follow-releases": holder.refresh,
        "follow-withdrawals": lambda _: holder.look_while_busy(),
    }


@asynccontextmanager
async def looking(
    looks: Looks,
    metrics: FaissServerMetrics,
    poll_seconds: float,
    at_end: Callable[[], object] = lambda: None,
) -> AsyncIterator[None]:
    """Do each of these every `poll_seconds`, in a thread of its own, while the context is open;
    each thread calls `at_end` when it ends.
    """
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=_look_until,
            args=(stop, look, metrics, poll_seconds, at_end),
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


def _look_until(
    stop: threading.Event,
    look: Callable[[OnBytes], None],
    metrics: FaissServerMetrics,
    poll_seconds: float,
    at_end: Callable[[], object],
) -> None:
    watch(look, poll_seconds, stop, metrics.poll_failures.inc)
    at_end()
