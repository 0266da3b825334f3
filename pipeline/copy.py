"""Beside the index: model and embeddings go into the serving store, where nobody sees them yet."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.exported import ExportedModel
from pipeline.records import StepRecord
from releases.ahead import copy_ahead, describe_ahead
from releases.ahead import discard_copy as discard_from
from releases.store import ReleaseStore

__all__ = ["CopiedModel", "copy_model", "discard_copy"]


@dataclass(frozen=True)
class CopiedModel(StepRecord):
    """What the copy had to do; the files are in the store, nothing of them is in the folder."""

    file_count: int
    bytes_sent: int
    bytes_already_there: int
    """Verified and not sent: left by a copy that was interrupted."""
    seconds: float


def copy_model(
    exported: ExportedModel,
    store: str,
    directory: Path,
    on_share: Callable[[float], None] = lambda _share: None,
) -> CopiedModel:
    """Put the model and embeddings of an unpublished release into the store, each file verified.

    The publishing adds the index and, last, the manifest; until then no server looks at them.
    `on_share` hears how much is done, from 0 to 1. Raises ReleaseExistsError, ReleaseClaimedError
    where others are bringing other files under this id, StoreError or IncompleteReleaseError; a
    repeated call sends only what is missing.
    """
    started = time.monotonic()
    files = describe_ahead(exported.directory, exported.release)
    progress = _Progress(2 * sum(entry.size for entry in files), on_share)  # sent, read back
    done = copy_ahead(
        ReleaseStore(str(exported.directory)),
        ReleaseStore(store),
        exported.release,
        files,
        progress.advance,
    )
    return CopiedModel(
        directory,
        file_count=len(files),
        bytes_sent=done.bytes_sent,
        bytes_already_there=done.bytes_already_there,
        seconds=time.monotonic() - started,
    )


def discard_copy(store: str, release: int) -> None:
    """Remove what was copied of a release that is not to be published.

    Nothing happens to one that is published, or whose publishing has begun.
    """
    discard_from(ReleaseStore(store), release)


class _Progress:
    """Turns the bytes of several threads into a share."""

    def __init__(self, total: int, on_share: Callable[[float], None]) -> None:
        self._total = max(total, 1)
        self._on_share = on_share
        self._done = 0
        self._counting = threading.Lock()

    def advance(self, count: int) -> None:
        with self._counting:
            self._done += count
            self._on_share(self._done / self._total)
