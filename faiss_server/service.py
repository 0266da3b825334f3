"""What the faiss server does, in plain arrays and dataclasses."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from faiss_server.held import Held
from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.loaded import LoadedRelease
from faiss_server.metrics import FaissServerMetrics
from faiss_server.popular import PopularList
from faiss_server.recall_watch import RecallWatch
from faiss_server.search import SearchQuery, SearchResult
from faiss_server.taken_down import TakenDown, TakenDownArticles
from releases.manifest import GoldenHistory
from releases.split import Split
from service_runtime.deadlines import Deadline
from service_runtime.errors import InvalidRequestError, ReleaseNotHeldError
from service_runtime.short_work import ShortWork

__all__ = ["MAX_VECTORS", "ArticleVectors", "FaissService"]

MAX_VECTORS = 256
"""In one search."""

_NOTHING: Final = TakenDown()

AnswerT = TypeVar("AnswerT")


class TakeDownsOffError(ReleaseNotHeldError):
    """The server follows no Redis, so nothing can be taken down by it: FAILED_PRECONDITION."""


@dataclass(frozen=True, slots=True)
class ArticleVectors:
    """`vectors` float32[n, dimension] of `article_ids` int64[n]; `missing` are not there."""

    article_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    missing: NDArray[np.int64]


class FaissService:
    """Answers for the releases that the holder has; searches run in the executor."""

    def __init__(
        self,
        holder: ReleaseHolder,
        executor: Executor,
        metrics: FaissServerMetrics,
        in_use: ReleasesInUse,
        watch: RecallWatch | None = None,
        taken_down: TakenDownArticles | None = None,
    ) -> None:
        self._holder = holder
        self._executor = executor
        self._metrics = metrics
        self._in_use = in_use
        self._watch = watch
        self._taken_down = taken_down
        self._searching = 0

    async def search(self, release: int, query: SearchQuery, deadline: Deadline) -> SearchResult:
        """Search one release; `query.vectors` are its rows' values in one dimension, float32[n].

        Raises InvalidRequestError, ReleaseNotHeldError, BackendUnavailableError, OutOfTimeError.
        """
        loaded = self._holder.get(release)
        query = _in_rows(query, loaded.manifest.dimension)
        ordinary = query.is_plain and query.nprobe is None
        self._searching += 1
        try:
            if ordinary and await self._is_for_the_loop(loaded.pace, len(query.vectors)):
                deadline.budget()
                return self._search(loaded, query, deadline, ordinary=True)
            return await self._run(
                deadline, lambda: self._search(loaded, query, deadline, ordinary=ordinary)
            )
        finally:
            self._searching -= 1

    async def vectors(
        self, release: int, article_ids: NDArray[np.int64], deadline: Deadline
    ) -> ArticleVectors:
        """Answer the stored vectors of articles, in the order asked for.

        Raises ReleaseNotHeldError, BackendUnavailableError, OutOfTimeError.
        """
        loaded = self._holder.get(release)
        return await self._run(deadline, lambda: _vectors(loaded, article_ids))

    def popular(
        self, release: int, region_id: int | None, *, with_taken_down: bool = False
    ) -> PopularList:
        """Answer the region's popular articles, the overall ones where it has none.

        Raises ReleaseNotHeldError, BackendUnavailableError.
        """
        lists = self._holder.get(release).popular
        found = lists[region_id] if region_id in lists else lists[None]
        return found if with_taken_down else found.without(self.taken_down().article_ids)

    def popular_everywhere(
        self, release: int, *, with_taken_down: bool = False
    ) -> Sequence[PopularList]:
        """Answer all lists, the overall one first.

        Raises ReleaseNotHeldError, BackendUnavailableError.
        """
        lists = tuple(self._holder.get(release).popular.values())
        if with_taken_down:
            return lists
        gone = self.taken_down().article_ids
        return tuple(each.without(gone) for each in lists)

    def taken_down(self) -> TakenDown:
        """Answer what is taken down now."""
        return _NOTHING if self._taken_down is None else self._taken_down.now

    def taken_down_unless(self, known_digest: int) -> TakenDown | None:
        """Answer what is taken down now; None for a caller who knows it by its digest."""
        digest = 0 if self._taken_down is None else self._taken_down.digest
        return None if digest == known_digest else self.taken_down()

    async def remove(self, article_ids: Collection[int], deadline: Deadline) -> int:
        """Take articles down, for all servers; answer how many are taken down then.

        Raises TakeDownsOffError, BackendUnavailableError, InvalidRequestError, OutOfTimeError.
        """
        followed = self._followed()
        deadline.budget()
        # Not in a search's thread: Redis may keep it waiting.
        return await asyncio.to_thread(followed.remove, article_ids)

    async def restore(self, article_ids: Collection[int], deadline: Deadline) -> int:
        """Take articles back, for all servers; answer how many are still taken down.

        Raises TakeDownsOffError, BackendUnavailableError, OutOfTimeError.
        """
        followed = self._followed()
        deadline.budget()
        return await asyncio.to_thread(followed.restore, article_ids)

    def _followed(self) -> TakenDownArticles:
        if self._taken_down is None:
            raise TakeDownsOffError(
                "this server follows no Redis to take articles down in: set FAISS_SERVER_REDIS_URL"
            )
        return self._taken_down

    def note_use(self, in_use: Collection[int], refused: Collection[int]) -> None:
        """Take a caller's word for what it answers from, and what it will not answer from."""
        held = self._holder.held.ready.keys()
        self._in_use.tell(held & set(in_use), held & set(refused))

    def held(self) -> Held:
        """Answer what is loading and what is ready."""
        return self._holder.held

    def split(self) -> Split | None:
        """Answer how the users are divided between releases; None: they are not."""
        return self._holder.split

    def golden_histories(self, release: int) -> Sequence[GoldenHistory]:
        """Answer a ready release's golden histories; none for any other."""
        loaded = self._holder.held.ready.get(release)
        return loaded.manifest.golden_histories if loaded is not None else ()

    async def _is_for_the_loop(self, pace: ShortWork, rows: int) -> bool:
        """Whether a search holds up others by less than handing it to a thread takes."""
        if pace.is_short(rows):
            return True
        if self._searching > 1 or not pace.is_short(rows, alone=True):
            return False
        await asyncio.sleep(0)  # those who came in the same turn of the loop begin now
        return self._searching == 1

    async def _run(self, deadline: Deadline, work: Callable[[], AnswerT]) -> AnswerT:
        # A thread cannot be stopped, so work that comes too late is not begun: neither queued
        # nor, after a wait in the queue, run.
        deadline.budget()

        def in_time() -> AnswerT:
            deadline.budget()
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._executor, in_time)

    def _search(
        self, loaded: LoadedRelease, query: SearchQuery, deadline: Deadline, *, ordinary: bool
    ) -> SearchResult:
        # By the thread's own clock for the pace: on busy cores a search waits for its turn, and
        # handing it to a thread would make it wait for two more.
        started, started_work = time.perf_counter(), time.thread_time()
        result = loaded.searcher.search(query, deadline.left)
        if ordinary:
            loaded.pace.learn(time.thread_time() - started_work, len(query.vectors))
        self._metrics.search.observe(time.perf_counter() - started)
        if self._watch is not None:
            self._watch.see(loaded, query, result)
        return result


def _in_rows(query: SearchQuery, dimension: int) -> SearchQuery:
    rows, rest = divmod(query.vectors.size, dimension)
    if rest:
        raise InvalidRequestError(
            f"vectors: {query.vectors.size} values are not rows of {dimension}, "
            "the release's dimension"
        )
    if not 1 <= rows <= MAX_VECTORS:
        raise InvalidRequestError(f"vectors: {rows} are not 1 to {MAX_VECTORS}")
    if len(query.excluded_ids) not in {0, rows}:
        raise InvalidRequestError(
            f"excluded_ids: {len(query.excluded_ids)} elements, must be none or one for each "
            f"of the {rows} vectors"
        )
    vectors = query.vectors.reshape(rows, dimension)
    # Not dataclasses.replace, which takes four times as long.
    return SearchQuery(vectors, query.k, query.nprobe, query.excluded_ids, query.filters)


def _vectors(loaded: LoadedRelease, article_ids: NDArray[np.int64]) -> ArticleVectors:
    positions = loaded.index.positions_of(article_ids)
    found = positions >= 0
    return ArticleVectors(
        article_ids[found], loaded.index.vectors_at(positions[found]), article_ids[~found]
    )
