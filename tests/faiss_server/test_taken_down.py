"""Taken-down articles: on every replica, in every release, through swaps, restarts and losses."""

import asyncio
import json
import time
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry
from recsys.faiss.v1 import faiss_service_pb2 as pb

from faiss_server.attributes import Attributes
from faiss_server.loaded import LoadedRelease
from faiss_server.metrics import FaissServerMetrics
from faiss_server.search import Searcher, SearchQuery
from faiss_server.taken_down import TakenDown, TakenDownArticles
from releases.store import ReleaseStore
from service_runtime.errors import BackendUnavailableError
from tests.faiss_server.holding import metric
from tests.faiss_server.making import Made, publish_release
from tests.faiss_server.serving import (
    SERVED,
    RunningFaissServer,
    good_search,
    random_vectors,
    running,
)


def test_digests_tell_sets_apart() -> None:
    def digest(*article_ids: int) -> int:
        return TakenDown("a", 1, np.array(article_ids, np.int64)).digest

    assert digest() == 0
    assert len({digest(1), digest(2), digest(1, 2), 0}) == 4
    assert digest(1, 2) == TakenDown("b", 9, np.array([1, 2])).digest


class Fake:
    """A store that can be away and can forget."""

    def __init__(self) -> None:
        self.life, self.version, self.token, self.away = "", 0, "", False
        self.members = set[int]()
        self._tokens = map(str, count(1))

    def read(self, known: TakenDown) -> TakenDown:
        if self.away:
            raise BackendUnavailableError("away")
        if (self.life, self.version, self.token) == (known.life, known.version, known.token):
            return known
        if known.is_lost_by(self.life, self.version):
            self._write(set(known.article_ids.tolist()), set())
        return self._whole()

    def change(
        self, known: TakenDown, removed: Collection[int], restored: Collection[int]
    ) -> TakenDown:
        self.read(known)
        self._write(set(removed), set(restored))
        return self._whole()

    def forget(self) -> None:
        self.life, self.version, self.token, self.members = "", 0, "", set()

    def _whole(self) -> TakenDown:
        members = np.array(sorted(self.members), np.int64)
        return TakenDown(self.life, self.version, members, self.token)

    def _write(self, removed: set[int], restored: set[int]) -> None:
        self.members = (self.members | removed) - restored
        self.life, self.version = self.life or str(time.monotonic_ns()), self.version + 1
        self.token = next(self._tokens)


class Replica:
    """A server as far as taken-down articles go: its releases come and go."""

    def __init__(self, store: Fake, file: Path, release: LoadedRelease) -> None:
        self._release = release
        self.searchers: list[Searcher] = []
        metrics = FaissServerMetrics(CollectorRegistry())
        self.taken = TakenDownArticles(lambda: store, file, metrics, self._tell)
        self.taken.look()
        self.swap()

    def _tell(self) -> None:
        for searcher in self.searchers:
            searcher.leave_out(self.taken.now.article_ids)

    def swap(self) -> None:
        index = self._release.index
        searcher = Searcher(index, Attributes({}, len(index)), self._release.manifest.index.nprobe)
        searcher.leave_out(self.taken.now.article_ids)
        self.searchers = [*self.searchers[-1:], searcher]

    def answered(self) -> set[int]:
        return {
            article
            for searcher in self.searchers
            for k, nprobe in ((20, None), (700, 16))
            for article in searcher.search(
                SearchQuery(random_vectors(3, 1), k, nprobe)
            ).article_ids.tolist()
        }


def write_file(file: Path, article_ids: list[int]) -> None:
    """Let a disk say that these are taken down, as of a life of Redis that is over."""
    document = {"life": "another", "version": 9, "token": "x", "article_ids": article_ids}
    file.write_text(json.dumps(document))


ARTICLES = st.sets(st.integers(0, 30), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def machine(  # noqa: C901 - rules
    made: Made, loaded: LoadedRelease, tmp_path_factory: pytest.TempPathFactory
) -> type[RuleBasedStateMachine]:
    everything = set(made.article_ids.tolist())
    known = sorted(everything)

    class Machine(RuleBasedStateMachine):
        """`gone` is what callers were told is taken down."""

        def __init__(self) -> None:
            super().__init__()
            self.folder = tmp_path_factory.mktemp("replicas")
            self.store = Fake()
            self.gone: set[int] = set()
            self.replicas = [self._start(number) for number in range(2)]

        def _start(self, number: int) -> Replica:
            return Replica(self.store, self.folder / f"{number}.json", loaded)

        def _look(self) -> None:
            for _ in range(2):  # one may give back what the other has yet to read
                for replica in self.replicas:
                    replica.taken.look()

        @rule(number=st.integers(0, 1), places=ARTICLES)
        def remove(self, number: int, places: set[int]) -> None:
            articles = {known[place] for place in places}
            if self.store.away:
                with pytest.raises(BackendUnavailableError):
                    self.replicas[number].taken.remove(articles)
                return
            self.replicas[number].taken.remove(articles)
            self.gone |= articles
            self._look()

        @precondition(lambda self: not self.store.away)
        @rule(number=st.integers(0, 1), places=ARTICLES)
        def restore(self, number: int, places: set[int]) -> None:
            articles = {known[place] for place in places}
            self.replicas[number].taken.restore(articles)
            self.gone -= articles
            self._look()

        @rule(number=st.integers(0, 1))
        def a_release_comes(self, number: int) -> None:
            self.replicas[number].swap()

        @rule(number=st.integers(0, 1))
        def a_server_is_restarted(self, number: int) -> None:
            self.replicas[number] = self._start(number)

        @precondition(lambda self: self.store.life and not self.store.away)
        @rule(number=st.integers(0, 1), places=ARTICLES)
        def a_server_comes_with_the_disk_of_another_life(
            self, number: int, places: set[int]
        ) -> None:
            gone = [known[place] for place in places]
            write_file(self.folder / f"{number}.json", gone)
            self.replicas[number] = self._start(number)
            self._look()

        @rule(away=st.booleans())
        def redis_goes_or_comes_back(self, away: bool) -> None:
            self.store.away = away
            self._look()

        @rule()
        def redis_is_emptied(self) -> None:
            self.store.forget()
            self._look()

        @invariant()
        def no_replica_answers_what_is_gone_and_each_answers_all_else(self) -> None:
            for replica in self.replicas:
                assert replica.answered() == everything - self.gone

    return Machine


def test_nothing_that_is_gone_is_answered_whatever_happens(
    machine: type[RuleBasedStateMachine],
) -> None:
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )


def test_without_redis_at_start_the_last_state_on_disk_counts_and_a_metric_says_so(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    store, file = Fake(), tmp_path / "taken_down.json"
    before = TakenDownArticles(
        lambda: store, file, FaissServerMetrics(CollectorRegistry()), lambda: None
    )
    before.remove([5, 6])
    store.away = True
    after = TakenDownArticles(lambda: store, file, FaissServerMetrics(registry), lambda: None)
    after.look()
    assert after.now.article_ids.tolist() == [5, 6]
    assert metric(registry, "recsys_taken_down_unconfirmed") == 1
    assert metric(registry, "recsys_taken_down_articles") == 2
    store.away = False
    after.look()
    assert metric(registry, "recsys_taken_down_unconfirmed") == 0


def test_an_old_file_takes_nothing_down_where_redis_has_lived_on(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    store, file = Fake(), tmp_path / "taken_down.json"
    store.change(TakenDown(), [5], ())
    write_file(file, [5, 6, 7])
    taken = TakenDownArticles(lambda: store, file, FaissServerMetrics(registry), lambda: None)
    assert taken.now.article_ids.tolist() == [5, 6, 7]
    taken.look()
    assert taken.now.article_ids.tolist() == sorted(store.members) == [5]
    assert "2 articles in it are not taken down" in caplog.text


def test_what_the_file_says_counts_again_once_redis_has_confirmed_it(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    store, file = Fake(), tmp_path / "taken_down.json"
    metrics = FaissServerMetrics(CollectorRegistry())
    TakenDownArticles(lambda: store, file, metrics, lambda: None).remove([5, 6])
    taken = TakenDownArticles(lambda: store, file, FaissServerMetrics(registry), lambda: None)
    taken.look()
    store.forget()
    store.change(TakenDown(), [9], ())  # by someone who knows nothing
    taken.look()
    assert store.members == {5, 6, 9}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"life": "a", "version": 1, "token": "b", "article_ids": "x"}']
)
def test_a_spoilt_file_is_as_none(tmp_path: Path, registry: CollectorRegistry, text: str) -> None:
    file = tmp_path / "taken_down.json"
    file.write_text(text)
    taken = TakenDownArticles(Fake, file, FaissServerMetrics(registry), lambda: None)
    assert taken.now.article_ids.tolist() == []


def test_a_file_from_before_there_were_tokens_counts(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    file = tmp_path / "taken_down.json"
    file.write_text('{"life": "a", "version": 1, "article_ids": [7, 5]}')
    taken = TakenDownArticles(Fake, file, FaissServerMetrics(registry), lambda: None)
    assert taken.now.article_ids.tolist() == [5, 7]
    assert taken.now.token == ""


async def answered(server: RunningFaissServer, release: int = SERVED) -> list[int]:
    request = good_search(release=release, vectors=random_vectors(1, 1).tobytes(), k=20)
    return np.frombuffer((await server.faiss.Search(request)).ids, "<i8").tolist()


async def answers_after(server: RunningFaissServer, at: float, seconds: float) -> list[list[int]]:
    """Ask without a pause; answer what was answered to calls that began after `at`."""
    late = []
    while (began := time.monotonic()) < at + seconds:
        answer = await answered(server)
        if began >= at:
            late.append(answer)
    return late


async def test_all_servers_follow_within_a_second_and_so_do_new_releases_and_restarts(
    store: ReleaseStore, published: Made, tmp_path: Path, client: Any, redis_url: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running(store, tmp_path / "a", redis_url=redis_url) as one:
        async with running(store, tmp_path / "b", redis_url=redis_url) as other:
            for server in (one, other):
                await server.until_ready(SERVED)
            best = await answered(one)
            gone = best[:3]
            response = await one.faiss.Remove(pb.RemoveRequest(article_ids=gone))
            assert response.taken_down_count == 3
            assert not set(await answered(one)) & set(gone)
            removed = time.monotonic()
            late = await asyncio.gather(*(answers_after(s, removed + 1, 0.7) for s in (one, other)))
            assert all(len(of_server) > 10 for of_server in late)
            assert not {article for of_server in late for each in of_server for article in each} & {
                *gone
            }
            publish_release(store, tmp_path / "staging", SERVED + 1)
            await other.until_ready(SERVED + 1)
            everything = good_search(release=SERVED + 1, k=700, nprobe=16)
            found = np.frombuffer((await other.faiss.Search(everything)).ids, "<i8")
            assert set(found.tolist()) == set(published.article_ids.tolist()) - set(gone)
        async with running(store, tmp_path / "b", redis_url=redis_url) as other:
            await other.until_ready(SERVED)
            assert not set(await answered(other)) & set(gone)
            await other.faiss.Restore(pb.RestoreRequest(article_ids=gone))
            assert await answered(other) == best
            await asyncio.sleep(1)
            assert await answered(one) == best


async def test_popular_lists_and_the_status_say_what_is_gone(
    store: ReleaseStore, published: Made, tmp_path: Path, client: Any, redis_url: str
) -> None:
    async with running(store, tmp_path, redis_url=redis_url) as server:
        await server.until_ready(SERVED)

        async def popular(**how: Any) -> list[int]:
            response = await server.faiss.GetPopular(pb.GetPopularRequest(release=SERVED, **how))
            return np.frombuffer(response.lists[0].ids, "<i8").tolist()

        listed = await popular()
        await server.faiss.Remove(pb.RemoveRequest(article_ids=[listed[1], 12345]))
        assert await popular() == [listed[0], *listed[2:]]
        assert await popular(all_regions=True) == [listed[0], *listed[2:]]
        assert await popular(include_taken_down=True) == listed
        told = (await server.faiss.GetStatus(pb.GetStatusRequest())).taken_down
        assert np.frombuffer(told.article_ids, "<i8").tolist() == sorted([listed[1], 12345])
        request = pb.GetStatusRequest(taken_down_digest=told.digest)
        assert not (await server.faiss.GetStatus(request)).HasField("taken_down")


async def test_without_a_redis_to_follow_nothing_can_be_taken_down(
    server: RunningFaissServer,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="set FAISS_SERVER_REDIS_URL") as caught:
        await server.faiss.Remove(pb.RemoveRequest(article_ids=[1]))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert not (await server.faiss.GetStatus(pb.GetStatusRequest())).HasField("taken_down")


@pytest.mark.parametrize(
    ("article_ids", "message"), [([], "0 ids are not 1 to 10000"), ([3, -1], "id -1 is negative")]
)
async def test_what_is_no_list_of_articles_is_refused(
    store: ReleaseStore, tmp_path: Path, client: Any, redis_url: str, article_ids: list[int],
    message: str,
) -> None:  # fmt: skip
    async with running(store, tmp_path, redis_url=redis_url) as server:
        for call, request in (
            (server.faiss.Remove, pb.RemoveRequest(article_ids=article_ids)),
            (server.faiss.Restore, pb.RestoreRequest(article_ids=article_ids)),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
                await call(request)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_redis_that_is_away_is_unavailable_and_keeps_no_server_from_serving(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    gone = published.article_ids[:9].tolist()
    (tmp_path / "local").mkdir()
    write_file(tmp_path / "local" / "taken_down.json", gone)
    async with running(store, tmp_path, redis_url="redis://127.0.0.1:1/0") as server:
        await server.until_ready(SERVED)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.faiss.Remove(pb.RemoveRequest(article_ids=[1]))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        everything = np.frombuffer((await server.faiss.Search(good_search(k=700))).ids, "<i8")
        assert not set(everything.tolist()) & set(gone)
