"""Releases that are out of service, until their memory is free."""

import logging
import threading
import time
import weakref
from typing import Final

from faiss_server.loaded import LoadedRelease

__all__ = ["Departing"]

logger = logging.getLogger(__name__)

_LAST_SEARCH_SECONDS: Final = 10.0


class Departing:
    """One release that nobody new is given; searches that have it go on.

    For `notice_seconds` callers are still answered from it: they learn that it is out of service
    when they ask next. Searches have the `LoadedRelease`; this keeps what is in it. So the memory,
    which takes a while to give back, is freed by whoever lets go of this, and not by the event loop
    after the last answer.
    """

    def __init__(self, loaded: LoadedRelease, notice_seconds: float = 0.0) -> None:
        self._until = time.monotonic() + notice_seconds
        self._on_notice = loaded if notice_seconds else None
        self._release = loaded.manifest.release
        self._contents = (loaded.index, loaded.searcher, loaded.popular)
        gone = self._gone = threading.Event()
        self._reference = weakref.ref(loaded, lambda _: gone.set())

    @property
    def on_notice(self) -> LoadedRelease | None:
        """Answer the release while it is still given to those who could not know better."""
        return self._on_notice

    def wait(self) -> None:
        """Wait until the notice is over and the searches under way have let go of it."""
        if self._on_notice is not None:
            time.sleep(max(0.0, self._until - time.monotonic()))
            self._on_notice = None
        if not self._gone.wait(_LAST_SEARCH_SECONDS):
            logger.warning("release %d is dropped, but still in use", self._release)
