"""Releases that are out of service, until their memory is free."""

import logging
import threading
import weakref
from typing import Final

from faiss_server.loaded import LoadedRelease

__all__ = ["Departing"]

logger = logging.getLogger(__name__)

_LAST_SEARCH_SECONDS: Final = 10.0


class Departing:
    """One release that nobody new is given; searches that have it go on.

    They have the `LoadedRelease`; this keeps what is in it. So the memory, which takes a while to
    give back, is freed by whoever lets go of this, and not by the event loop after the last answer.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        self._release = loaded.manifest.release
        self._contents = (loaded.index, loaded.searcher, loaded.popular)
        gone = self._gone = threading.Event()
        self._reference = weakref.ref(loaded, lambda _: gone.set())

    def wait(self) -> None:
        """Wait until the searches under way have let go of it."""
        if not self._gone.wait(_LAST_SEARCH_SECONDS):
            logger.warning("release %d is dropped, but still in use", self._release)
