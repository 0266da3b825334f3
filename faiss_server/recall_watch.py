"""Recall of live searches: a few of them are repeated exactly, behind the serving threads' back.

A thread of a low priority would be no help: it would hold the interpreter while it waits for a
core. So the work comes in pieces of a millisecond, with nine times as long a rest after each, and
a sample that comes meanwhile is dropped once a few are waiting.
"""

import logging
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from faiss_server.loaded import LoadedRelease
from faiss_server.metrics import FaissServerMetrics
from faiss_server.search import SearchQuery, SearchResult

__all__ = ["RecallWatch"]

logger = logging.getLogger(__name__)

_MOST_WAITING: Final = 4
_REST: Final = 9.0
"""Times what a piece of work took: a tenth of a core at the most."""
_AT: Final = 200
_JOIN_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Sample:
    release: "weakref.ref[LoadedRelease]"
    query: SearchQuery
    """One row."""
    answered: NDArray[np.int64]


class RecallWatch:
    """Measures a share of the searches that it is shown; a context, whose end ends its thread."""

    def __init__(
        self,
        metrics: FaissServerMetrics,
        share: float,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        self._metrics = metrics
        self._share = share
        self._rest = rest
        self._samples: queue.SimpleQueue[_Sample | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-recall", daemon=True)

    def __enter__(self) -> Self:
        if self._share:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._samples.put(None)
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def see(self, loaded: LoadedRelease, query: SearchQuery, result: SearchResult) -> None:
        """Take a search and its answer, or leave it; from any thread, never waits."""
        if random.random() >= self._share:  # noqa: S311 - which queries are measured
            return
        if self._samples.qsize() >= _MOST_WAITING:
            self._metrics.recall_dropped.inc()
            return
        # The arrays of a request are views of its bytes, which live as long as they do.
        row = replace(query, vectors=query.vectors[:1], excluded_ids=query.excluded_ids[:1])
        # A sample that waits must not keep a release in memory.
        sample = _Sample(weakref.ref(loaded), row, result.article_ids[: result.counts[0]])
        self._samples.put(sample)

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None and not self._stopped.is_set():
            try:
                self._measure(sample)
            except Exception:  # whatever it is, searches go on without being watched
                logger.exception("the recall of a search could not be measured")
                self._metrics.recall_dropped.inc()

    def _measure(self, sample: _Sample) -> None:
        loaded = sample.release()
        if loaded is None:
            return
        article_ids = loaded.index.article_ids
        parts = loaded.searcher.scan(replace(sample.query, k=min(sample.query.k, _AT)))
        del loaded
        best = np.empty(0, np.int64)
        started = time.perf_counter()
        for best in parts:  # noqa: B007 - the last one counts
            if self._stopped.is_set() or sample.release() is None:
                return
            self._rest(_REST * (time.perf_counter() - started))
            started = time.perf_counter()
        if best.size:
            self._metrics.recall.observe(float(np.isin(article_ids[best], sample.answered).mean()))
