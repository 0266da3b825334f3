"""The thread that follows the store for as long as the server runs."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from faiss_server.holder import ReleaseHolder
from faiss_server.metrics import FaissServerMetrics
from releases.errors import ReleaseError

__all__ = ["following"]

logger = logging.getLogger(__name__)

# A store that does not answer must not hold up the end of the process.
_JOIN_SECONDS: Final = 2.0


class _StoppedError(Exception):
    """Ends a download that is under way."""


@asynccontextmanager
async def following(
    holder: ReleaseHolder, metrics: FaissServerMetrics, poll_seconds: float
) -> AsyncIterator[None]:
    """Refresh the holder every `poll_seconds` while the context is open, from now on."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_follow,
        args=(holder, metrics, poll_seconds, stop),
        name="follow-releases",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, _JOIN_SECONDS)


def _follow(
    holder: ReleaseHolder, metrics: FaissServerMetrics, poll_seconds: float, stop: threading.Event
) -> None:
    def end_when_stopped(_count: int) -> None:
        if stop.is_set():
            raise _StoppedError

    reported: str | None = None
    while not stop.is_set():
        failure: Exception | None = None
        try:
            holder.refresh(end_when_stopped)
        except _StoppedError:
            return
        except Exception as error:  # noqa: BLE001 - it is logged, and the thread must go on
            failure = error
            metrics.poll_failures.inc()
        if failure is not None and repr(failure) != reported:
            # An unreachable store explains itself; anything else needs its traceback.
            unforeseen = None if isinstance(failure, ReleaseError | OSError) else failure
            logger.error("cannot follow the store, will retry: %s", failure, exc_info=unforeseen)
        reported = None if failure is None else repr(failure)
        failure = None  # its traceback would hold what was dropped
        stop.wait(poll_seconds)
