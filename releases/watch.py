"""Following a store for as long as a process lives."""

import logging
import threading

from releases.errors import ReleaseError
from releases.sync import Mirror

__all__ = ["watch"]

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """Ends a transfer that is under way."""


def watch(mirror: Mirror, interval_seconds: float, stop: threading.Event) -> None:
    """Sync every `interval_seconds` until `stop` is set, which also ends a download half-way.

    An error is logged once, until it changes or goes, and tried again at the next turn.
    """

    def end_when_stopped(_count: int) -> None:
        if stop.is_set():
            raise _StoppedError

    reported: str | None = None
    while not stop.is_set():
        try:
            mirror.sync(end_when_stopped)
            reported = None
        except _StoppedError:
            return
        except (ReleaseError, OSError) as error:
            if str(error) != reported:
                reported = str(error)
                logger.error("cannot sync, will retry: %s", reported)  # noqa: TRY400 - one line
        stop.wait(interval_seconds)
