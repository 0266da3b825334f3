"""Store, replicas and tracker through random interleavings: no answer mixes releases.

The store, the fleets, the tracker and the service are the real ones; the replicas are objects in
this process, so that a run of many steps takes milliseconds.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from prometheus_client import CollectorRegistry

from recommender.backends import GoldenHistory, Status, UserVectors
from recommender.domain import CandidateQuery, Ranking, Source, View
from recommender.fleet import Fleet
from recommender.popular import PopularArticles, PopularList
from recommender.service import RecommenderService
from recommender.split import Split, release_of
from recommender.tracker import ReleaseTracker
from releases import split as split_module
from releases.store import ReleaseStore
from service_runtime.deadlines import Deadline
from service_runtime.errors import (
    BackendUnavailableError,
    CallError,
    OutOfTimeError,
    ReleaseNotHeldError,
)
from tests.support.releases import publish_tiny

POLL_SECONDS = 0.001
REPLICAS = st.integers(0, 1)
FAULTS = st.sampled_from(["none", "away", "late", "lies"])
NOTHING = np.empty(0, np.int64)


def answer_ids(vector_of: int, index_of: int, newest: int, k: int) -> np.ndarray:
    """Tells which release the vector was made with and which index it was searched in."""
    return (vector_of * 1_000 + index_of) * 1_000_000 + newest * 1_000 + np.arange(k)


@dataclass(eq=False)
class Replica:
    """Holds at most two releases of the store, when it gets round to it."""

    address: str
    store: ReleaseStore
    sound: set[int]
    held: list[int] = field(default_factory=list)
    fault: str = "none"
    polls: int = 0

    def load(self) -> None:
        """Take one step towards what the store offers: drop one that must go, or load one."""
        wanted = self.store.usable()[:2]
        gone = [release for release in self.held if release not in wanted]
        missing = [release for release in wanted if release not in self.held]
        if gone:
            self.held.remove(gone[0])
        elif missing:
            self.held.append(missing[0])

    async def status(self, timeout_seconds: float) -> Status:
        self.polls += 1
        await self._misbehave()
        split = self.store.split()
        told = Split(split.release, split.share, split.changed_at_ms) if split else None
        return Status(frozenset(self.held), told)

    async def close(self, grace_seconds: float) -> None:
        return

    async def _misbehave(self) -> None:
        await asyncio.sleep(0)
        if self.fault == "away":
            raise BackendUnavailableError("away")
        if self.fault == "late":
            raise OutOfTimeError("late")

    async def _held(self, release: int) -> int:
        await self._misbehave()
        if release not in self.held:
            raise ReleaseNotHeldError(f"{release} is not held")
        if self.fault == "lies":
            # What the real clients make of an answer that echoes another release.
            raise BackendUnavailableError("answered from another release")
        return release


class Model(Replica):
    async def user_vectors(self, release, histories, regions, timeout_seconds) -> UserVectors:
        release = await self._held(release)
        # An unsound release is one whose model was swapped for another's.
        made_with = release if release in self.sound else release + 500
        vectors = np.zeros((len(histories), 2), np.float32)
        vectors[:, 0], vectors[:, 1] = histories[:, 0], made_with
        return UserVectors(vectors, np.ones(len(histories), np.int32))


class Index(Replica):
    async def search(self, release, vectors, k, *, excluded=None, filters=(), timeout_seconds):
        release = await self._held(release)
        return [
            Ranking(answer_ids(int(row[1]), release, int(row[0]), k), np.zeros(k, np.float32))
            for row in vectors
        ]

    async def popular(self, release, timeout_seconds) -> PopularArticles:
        release = await self._held(release)
        ids = np.arange(10) - release  # negative: no search answers them
        return PopularArticles(PopularList(ids, np.zeros(10, np.float32), {}), {})

    async def golden_histories(self, release, timeout_seconds) -> tuple[GoldenHistory, ...]:
        release = await self._held(release)
        return (GoldenHistory((5, 6), None, answer_ids(release, release, 5, 10), 0.9),)


class NoHistory:
    """Every request brings its own recent articles."""

    async def article_ids(self, user_ids: Sequence[str], timeout_seconds: float) -> list[list[int]]:
        raise AssertionError("nobody asks")

    async def views(self, user_id: str, timeout_seconds: float) -> list[View]:
        raise AssertionError("nobody asks")

    async def record(self, user_id: str, views: Sequence[View], timeout_seconds: float) -> None:
        raise AssertionError("nobody asks")


class Stack(RuleBasedStateMachine):
    """Two replicas of each kind follow one store; a recommender follows them."""

    @initialize()
    def start(self) -> None:
        self.hurry = pytest.MonkeyPatch()  # what is mended is soon in use again
        for pause in ("fleet._PAUSE_SECONDS", "fleet._MAX_PAUSE_SECONDS", "tracker._RETRY_SECONDS"):
            self.hurry.setattr(f"recommender.{pause}", POLL_SECONDS)
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.store = ReleaseStore(str(self.directory / "store"))
        self.sound: set[int] = set()
        self.newest = 0
        self.models = [Model(f"model:{n}", self.store, self.sound) for n in range(2)]
        self.indexes = [Index(f"index:{n}", self.store, self.sound) for n in range(2)]
        self.runner.run(self._start())

    async def _start(self) -> None:
        registry = CollectorRegistry()
        self.tracker = ReleaseTracker(registry)
        models, indexes = self._fleet(self.models), self._fleet(self.indexes)
        self.service = RecommenderService(
            NoHistory(), models, indexes, self.tracker, registry, max_batch=8
        )
        self.background = [
            asyncio.create_task(work)
            for work in (models.run(), indexes.run(), self.tracker.run(models, indexes))
        ]

    def _fleet(self, replicas: list) -> Fleet:
        by_address = {replica.address: replica for replica in replicas}

        async def addresses() -> list[str]:
            return list(by_address)

        return Fleet(
            "replica",
            addresses,
            by_address.__getitem__,
            self.tracker.notice,
            poll_seconds=POLL_SECONDS,
            resolve_seconds=60,
        )

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.runner.run(self._stop())
        self.runner.close()
        self.hurry.undo()
        shutil.rmtree(self.directory)

    async def _stop(self) -> None:
        for task in self.background:
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)

    @property
    def replicas(self) -> list[Replica]:
        return [*self.models, *self.indexes]

    @rule(sound=st.sampled_from([True, True, True, False]))
    def publish(self, sound: bool) -> None:
        self.newest += 1
        if sound:
            self.sound.add(self.newest)
        publish_tiny(self.store, self.directory / f"staging-{self.newest}", self.newest)

    @precondition(lambda self: self.newest)
    @rule(back=st.integers(0, 3))
    def withdraw(self, back: int) -> None:
        usable = self.store.usable()
        if usable:
            self.store.withdraw(usable[min(back, len(usable) - 1)])

    @rule(number=st.integers(0, 3), steps=st.integers(1, 4))
    def load(self, number: int, steps: int) -> None:
        for _ in range(steps):
            self.replicas[number].load()

    @rule()
    def load_everywhere(self) -> None:
        for number in range(4):
            self.load(number, 4)

    @rule(number=st.integers(0, 3))
    def restart(self, number: int) -> None:
        """It answers, and holds nothing until it loads again."""
        self.replicas[number].held.clear()

    @rule(number=st.integers(0, 3), fault=FAULTS)
    def break_or_mend(self, number: int, fault: str) -> None:
        self.replicas[number].fault = fault

    @precondition(lambda self: self.newest)
    @rule(back=st.integers(0, 1), share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    def split(self, back: int, share: float) -> None:
        release = max(1, self.newest - back)
        self.store.set_split(split_module.read_split_argument(f"{release}={share * 100:.0f}%"))

    @rule(users=st.lists(st.integers(0, 99), min_size=1, max_size=8))
    def ask(self, users: list[int]) -> None:
        """Several users at once, while polls and proofs go on in between."""
        self.runner.run(self._ask_all(users))

    async def _ask_all(self, users: list[int]) -> None:
        await asyncio.gather(*(self._ask(user) for user in users))

    async def _ask(self, user: int) -> None:
        query = CandidateQuery(str(user), 7, NOTHING, recent=(user,))
        try:
            answer = await self.service.candidates(query, Deadline(1.0))
        except CallError:
            assert self.tracker.current is None  # there is no POPULAR before the first pin
            return
        assert answer.release in self.sound
        if answer.source is Source.PERSONALIZED:
            expected = answer_ids(answer.release, answer.release, user, 7)
        else:
            expected = (np.arange(10) - answer.release)[:7]
        assert answer.ranking.ids.tolist() == expected.tolist()

    @rule()
    def mend(self) -> None:
        """The pin is what all hold that hold anything, or else the newest that both sides hold."""
        self._mend()
        self.runner.run(self._polled(10))
        models, indexes = (
            set().union(*(replica.held for replica in side)) for side in (self.models, self.indexes)
        )
        common = models & indexes & self.sound
        if common:
            everywhere = common.intersection(*(one.held for one in self.replicas if one.held))
            pin = self.tracker.current
            assert pin is not None
            assert pin.release == max(everywhere or common)

    def _mend(self) -> None:
        for replica in self.replicas:
            replica.fault = "none"

    @rule()
    def settle(self) -> None:
        """With everything mended and loaded, everybody gets what the store says."""
        self._mend()
        self.load_everywhere()
        self.runner.run(self._polled(20))
        usable = [release for release in self.store.usable()[:2] if release in self.sound]
        if not usable:
            return
        split = self.store.split()
        for user in range(5):
            told = split and release_of(
                str(user), Split(split.release, split.share, split.changed_at_ms), set(usable)
            )
            pinned = self.tracker.pin_for(str(user)).release
            assert pinned == (told or max(usable))

    async def _polled(self, times: int) -> None:
        target = [replica.polls + times for replica in self.replicas]
        async with asyncio.timeout(10):
            while any(r.polls < t for r, t in zip(self.replicas, target, strict=True)):
                await asyncio.sleep(POLL_SECONDS)

    @invariant()
    def the_background_lives(self) -> None:
        assert not any(task.done() for task in getattr(self, "background", []))


Stack.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInterleavings = Stack.TestCase


def test_one_that_starts_does_not_bring_a_release_into_use_that_others_lack():
    stack = Stack()
    stack.start()
    try:
        stack.publish(sound=True)
        stack.load_everywhere()
        stack.publish(sound=True)
        for of_each_side in (0, 2):
            stack.load(of_each_side, 4)
        stack.restart(3)
        stack.mend()
        assert stack.tracker.current.release == 1
    finally:
        stack.teardown()
