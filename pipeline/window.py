"""The first step: which release this run makes, and which events it may look at."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import StepRecord
from releases.errors import ReleaseExistsError
from releases.rollout import refuse_in_split
from releases.store import ReleaseStore

__all__ = ["Window", "choose_window"]


@dataclass(frozen=True)
class Window(StepRecord):
    """Fixed once, at the start of a run, and read by every step that needs it."""

    release: int
    """Unix second of the run's start: the id of what is published."""
    since: int | None
    """Unix second of the earliest event that counts; None: all there are."""
    until: int
    """Unix second before which an event has to be; later ones come from clocks that are wrong."""


def choose_window(store: str, release: int | None, days: float | None, directory: Path) -> Window:
    """Look at the clock, here and nowhere else. `days`: how far back events count; None: all.

    Raises, now rather than after the training, ReleaseExistsError when the id is taken, and
    NotInServiceError while a split goes on, which is ended by a command alone.
    """
    now = int(time.time())
    chosen = now if release is None else release
    place = ReleaseStore(store)
    if place.is_published(chosen):
        raise ReleaseExistsError(f"{store} already has release {chosen}; give another --release")
    refuse_in_split(place, chosen)
    since = None if days is None else now - int(days * 86_400)
    return Window(directory, chosen, since, now)
