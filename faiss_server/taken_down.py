"""Articles that are taken down: sold, deleted, reported. They are in no answer of any release.

The set is in Redis, where all replicas follow it. Each keeps what it knew last on local disk: a
server that starts while Redis is away goes by that, and until Redis has confirmed it gives it to an
empty Redis only.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from faiss_server.metrics import FaissServerMetrics
from releases._atomic import replacing
from service_runtime.errors import CallError

__all__ = ["MOST_TAKEN_DOWN", "TakeDownStore", "TakenDown", "TakenDownArticles"]

logger = logging.getLogger(__name__)

MOST_TAKEN_DOWN: Final = 200_000
"""Callers are told all of them in one message."""


_FIRST_LOOK_SECONDS: Final = 3.0


@dataclass(frozen=True, eq=False)
class TakenDown:
    """The set at one moment."""

    life: str = ""
    """Of the store; another one means that it was emptied. Empty: nobody took anything down."""
    version: int = 0
    """Grows with each change in one life."""
    article_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Ascending."""
    token: str = ""
    """Of the newest change. Another one with the same version means that a change was lost."""
    from_disk: bool = False
    """Read from a file that may be of any age, and not found in the store since."""

    def is_lost_by(self, life: str, version: int) -> bool:
        """Whether a store of this life and version has lost this set, and is to be given it back.

        Not where a file alone tells of another life: what was taken back since would go again.
        """
        if not self.life:
            return False
        if life == self.life:
            return version <= self.version
        return not (life and self.from_disk)

    @property
    def digest(self) -> int:
        """Tell sets apart, whatever their versions: 64 bits, 0 for the empty one."""
        if not self.article_ids.size:
            return 0
        data = self.article_ids.astype("<i8").tobytes()
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


class TakeDownStore(Protocol):
    """Where the set is kept for all. Raises BackendUnavailableError when it does not answer."""

    def read(self, known: TakenDown) -> TakenDown:
        """Answer the set of now; `known` itself where that is it.

        A store that has lost what is known (`TakenDown.is_lost_by`) is given it back.
        """
        ...

    def change(
        self, known: TakenDown, removed: Collection[int], restored: Collection[int]
    ) -> TakenDown:
        """Take articles down or back, and answer the set that follows."""
        ...


class TakenDownArticles:
    """Follows the store that `connect` makes, which is asked for where it is first needed: a client
    of Redis takes longer to import than a release to load. `on_change` is called, in whichever
    thread, after each change.
    """

    def __init__(
        self,
        connect: Callable[[], TakeDownStore],
        file: Path,
        metrics: FaissServerMetrics,
        on_change: Callable[[], object],
    ) -> None:
        self._connect = connect
        self._store: TakeDownStore | None = None
        self._looked = threading.Event()
        self._file = file
        self._metrics = metrics
        self._on_change = on_change
        self._lock = threading.Lock()
        self._now = _read(file)
        self._digest = self._now.digest
        self._reported: str | None = None
        metrics.taken_down.set(self._now.article_ids.size)
        metrics.taken_down_unconfirmed.set(1)

    @property
    def now(self) -> TakenDown:
        """Answer what is known to be taken down."""
        return self._now

    @property
    def digest(self) -> int:
        """Answer the digest of `now`."""
        return self._digest

    def look(self) -> None:
        """See what changed. A store that is away leaves what is known, and shows as a metric."""
        with self._lock:
            try:
                self._take(self._connected().read(self._now))
            except CallError as error:
                if str(error) != self._reported:  # once, not four times a second
                    logger.error("what is taken down cannot be followed: %s", error)  # noqa: TRY400
                self._reported = str(error)
                self._metrics.taken_down_unconfirmed.set(1)
            finally:
                self._looked.set()  # also after a fault of ours: servers serve all the same

    def after_first_look(self) -> TakenDown:
        """Answer what is taken down, once the store was asked for it; for those who load releases.

        Waits for `look` in another thread, but not for ever.
        """
        self._looked.wait(_FIRST_LOOK_SECONDS)
        return self._now

    def remove(self, article_ids: Collection[int]) -> int:
        """Take articles down, for all; answer how many are then.

        Raises BackendUnavailableError, InvalidRequestError when they would be too many.
        """
        return self._change(article_ids, ())

    def restore(self, article_ids: Collection[int]) -> int:
        """Take articles back, for all; answer how many are then still taken down.

        Raises BackendUnavailableError.
        """
        return self._change((), article_ids)

    def _change(self, removed: Collection[int], restored: Collection[int]) -> int:
        with self._lock:
            self._take(self._connected().change(self._now, removed, restored))
            return self._now.article_ids.size

    def _connected(self) -> TakeDownStore:
        if self._store is None:
            self._store = self._connect()
        return self._store

    def _take(self, taken: TakenDown) -> None:
        self._metrics.taken_down_unconfirmed.set(0)
        self._reported = None
        if taken is self._now:
            if taken.from_disk:
                self._now = replace(taken, from_disk=False)
            return
        self._warn_of_another_life(taken)
        self._now, self._digest = taken, taken.digest
        self._looked.set()  # whoever is told of the change asks for it
        self._metrics.taken_down.set(taken.article_ids.size)
        self._on_change()
        _write(self._file, taken)

    def _warn_of_another_life(self, taken: TakenDown) -> None:
        if not self._now.from_disk or taken.life == self._now.life:
            return
        dropped = np.setdiff1d(self._now.article_ids, taken.article_ids).size
        if dropped:
            logger.warning(
                "%s: is older than what Redis has, or of another Redis: %d articles in it are "
                "not taken down",
                self._file,
                dropped,
            )


def _read(file: Path) -> TakenDown:
    try:
        document = json.loads(file.read_bytes())
        ids = np.unique(np.array(document["article_ids"], np.int64))
        # The first versions of the file have no token; neither had Redis.
        token = str(document.get("token", ""))
        return TakenDown(
            str(document["life"]), int(document["version"]), ids, token, from_disk=True
        )
    except FileNotFoundError:
        return TakenDown()
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        logger.error("%s: not readable, so nothing is known: %s", file, error)  # noqa: TRY400
        return TakenDown()


def _write(file: Path, taken: TakenDown) -> None:
    document = {
        "life": taken.life,
        "version": taken.version,
        "token": taken.token,
        "article_ids": taken.article_ids.tolist(),
    }
    try:
        with replacing(file) as stream:
            stream.write(json.dumps(document).encode())
    except OSError as error:  # a full disk is no reason to show what is taken down
        logger.error("%s: cannot be written: %s", file, error)  # noqa: TRY400
