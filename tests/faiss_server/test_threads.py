"""What is done in the event loop, what in a thread, and what comes too late for either."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from recsys.faiss.v1 import faiss_service_pb2 as pb

from faiss_server.attributes import AttributeFilter, Attributes, Matching
from faiss_server.search import Searcher, SearchQuery, SearchResult
from faiss_server.service import FaissService
from releases.store import ReleaseStore
from service_runtime.deadlines import Deadline
from service_runtime.errors import OutOfTimeError
from service_runtime.short_work import ShortWork
from tests.faiss_server.making import Made
from tests.faiss_server.serving import (
    SERVED,
    RunningFaissServer,
    good_search,
    language_filter,
    running,
)


async def test_conditions_are_evaluated_beside_the_event_loop(
    server: RunningFaissServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    evaluate = Attributes.matching

    def while_others_are_answered(
        self: Attributes, filters: frozenset[AttributeFilter]
    ) -> Matching:
        status = server.faiss.GetStatus

        async def ask() -> None:
            await status(pb.GetStatusRequest())

        asyncio.run_coroutine_threadsafe(ask(), loop).result(10)
        return evaluate(self, filters)

    monkeypatch.setattr(Attributes, "matching", while_others_are_answered)
    response = await server.faiss.Search(good_search(filters=[language_filter(1, 2)] * 16))
    assert sum(response.counts) == 10


async def test_a_search_whose_time_ran_out_in_the_queue_is_never_begun(
    store: ReleaseStore, published: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    began = asyncio.Event()
    go_on = asyncio.Event()
    search = Searcher.search
    ks: list[int] = []

    def hold_the_first(self: Searcher, query: SearchQuery, *left: Any) -> SearchResult:
        ks.append(query.k)
        if query.k == 1:
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return search(self, query, *left)

    async with running(store, tmp_path, search_threads=1) as server:
        await server.until_ready(SERVED)
        monkeypatch.setattr(Searcher, "search", hold_the_first)
        first = server.faiss.Search(good_search(k=1, nprobe=1))  # never in the event loop
        await asyncio.wait_for(began.wait(), 10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.faiss.Search(good_search(k=2, nprobe=1), timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        await first
        await server.faiss.Search(good_search(k=3))
    assert ks == [1, 3]


async def test_a_search_that_waits_for_a_core_is_still_short(
    server: RunningFaissServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Searcher.search
    threads: list[threading.Thread] = []

    def wait_and_search(self: Searcher, query: SearchQuery, *left: Any) -> SearchResult:
        threads.append(threading.current_thread())
        time.sleep(0.003)
        return search(self, query, *left)

    monkeypatch.setattr(Searcher, "search", wait_and_search)
    for _ in range(10):
        await server.faiss.Search(good_search())
    assert set(threads) == {threading.current_thread()}  # the event loop's, of this very process


async def test_a_search_of_some_length_is_in_the_loop_where_it_is_the_only_one(
    server: RunningFaissServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Searcher.search
    threads: list[threading.Thread] = []

    def note_the_thread(self: Searcher, query: SearchQuery, *left: Any) -> SearchResult:
        threads.append(threading.current_thread())
        return search(self, query, *left)

    def within(self: ShortWork, units: int = 1, *, alone: bool = False) -> bool:
        return alone

    monkeypatch.setattr(Searcher, "search", note_the_thread)
    monkeypatch.setattr(ShortWork, "is_short", within)
    loops = threading.current_thread()
    for _ in range(3):
        await server.faiss.Search(good_search())
    assert threads == [loops] * 3
    threads.clear()
    # Written in one turn of the loop, and so read in one.
    await asyncio.gather(*(server.faiss.Search(good_search()) for _ in range(3)))
    assert len(threads) == 3
    assert loops not in threads


async def test_a_deadline_without_time_left_is_out_of_time_in_queue_and_before() -> None:
    ran: list[None] = []
    with ThreadPoolExecutor(1) as executor:
        service = FaissService(Mock(), executor, Mock(), Mock())
        with pytest.raises(OutOfTimeError):
            await service._run(Deadline(0), lambda: ran.append(None))
        late = Mock(**{"budget.side_effect": [1.0, OutOfTimeError("late")]})
        with pytest.raises(OutOfTimeError, match="late"):
            await service._run(late, lambda: ran.append(None))
        await service._run(Deadline(10), lambda: ran.append(None))
    assert ran == [None]
