"""Following a store for as long as a process lives."""

import logging
import threading
from collections.abc import Callable

from releases.checksums import OnBytes
from releases.errors import ReleaseError

__all__ = ["watch"]

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """Ends a transfer that is under way."""


def watch(
    look: Callable[[OnBytes], object],
    interval_seconds: float,
    stop: threading.Event,
    on_failure: Callable[[], object] = lambda: None,
) -> None:
    """Call `look` every `interval_seconds` until `stop` is set, which also ends a download.

    `look` passes what it is given to the transfers it makes. Whatever it raises is logged once,
    until that changes or goes, told to `on_failure`, and tried again at the next turn.
    """

    def end_when_stopped(_count: int) -> None:
        if stop.is_set():
            raise _StoppedError

    reported: str | None = None
    while not stop.is_set():
        failure: Exception | None = None
        try:
            look(end_when_stopped)
        except _StoppedError:
            return
        except Exception as error:  # noqa: BLE001 - it is logged, and what is held stays in use
            failure = error
            on_failure()
        if failure is not None and repr(failure) != reported:
            # A store or disk that is away explains itself; anything else needs its traceback.
            unforeseen = None if isinstance(failure, ReleaseError | OSError) else failure
            logger.error("cannot follow the store, will retry: %s", failure, exc_info=unforeseen)
        reported = None if failure is None else repr(failure)
        failure = None  # its traceback would keep what was dropped in memory
        stop.wait(interval_seconds)
