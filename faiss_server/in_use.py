"""Which releases callers answer from, as they say when they ask for the status."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

__all__ = ["ReleasesInUse"]

_WORD_SECONDS: Final = 3.0
"""A caller asks several times a second; one that is silent for so long is gone or has moved on."""


class ReleasesInUse:
    """Remembers what callers said lately. May be asked from any thread while one is told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_use: Mapping[int, float] = {}
        self._refused: Mapping[int, float] = {}

    def tell(self, in_use: Collection[int], refused: Collection[int]) -> None:
        """Take a caller's word."""
        now = self._clock()
        self._in_use = self._current(self._in_use) | dict.fromkeys(in_use, now)
        self._refused = self._current(self._refused) | dict.fromkeys(refused, now)

    def in_use(self) -> frozenset[int]:
        """Name the releases that somebody answers from, and nobody refuses to."""
        return frozenset(self._current(self._in_use)) - self.refused()

    def refused(self) -> frozenset[int]:
        """Name the releases that somebody will not answer from."""
        return frozenset(self._current(self._refused))

    def _current(self, said: Mapping[int, float]) -> dict[int, float]:
        oldest = self._clock() - _WORD_SECONDS
        return {release: at for release, at in said.items() if at >= oldest}
