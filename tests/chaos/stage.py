"""What a scenario can do to the stack, and what it leaves behind to be judged."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from local_stack.errors import StackError
from releases.publish import publish
from releases.rollout import Wait
from releases.store import ReleaseStore
from tests.chaos.cluster import Cluster
from tests.chaos.replica import Replica
from tests.chaos.results import Down, SplitWindow
from tests.chaos.rotated import RotatedReleases, Variant

__all__ = ["Record", "Rule", "Scenario", "Stage", "World"]

_IN_SERVICE_SECONDS = 30.0
_BACK_IN_THE_ROUND_SECONDS = 0.2


class Rule(Enum):
    """What must hold while a scenario runs."""

    SMOOTH = "smooth"
    """Nothing fails and nothing is degraded."""
    UNDISTURBED = "undisturbed"
    """Nothing is done: what holds with one healthy replica does, request by request. Not more: half
    an hour of a shared machine has moments that no server is to blame for."""
    ONE_HEALTHY = "one healthy"
    """One replica of each kind stays well: PERSONALIZED soon, answered in time."""
    NOBODY_HEALTHY = "nobody healthy"
    """A kind is away altogether: answered in time, POPULAR."""


class _Run(Protocol):
    def __call__(self, stage: "Stage") -> None: ...


@dataclass(frozen=True)
class Scenario:
    """A name, what happens, and the rule that it is judged by."""

    name: str
    rule: Rule
    run: _Run
    needs: tuple[Variant, ...] = ()
    """Releases that it publishes, in this order."""
    proxied: bool = False
    quick: bool = False
    """Whether the quick form runs it."""


@dataclass
class World:
    """What all scenarios share."""

    cluster: Cluster
    releases: RotatedReleases
    store: Path
    quick: bool
    published: set[int] = field(default_factory=set)
    """Sound releases that answers may name, withdrawn ones included."""

    @property
    def release_store(self) -> ReleaseStore:
        """The store that the servers follow."""
        return ReleaseStore(str(self.store))

    def publish(self, release: int, *, force: bool = False) -> None:
        """Publish a sound release, once the one before is in service or by force."""
        self.published.add(release)
        manifest = self.releases.manifest(release)
        wait = None if force else Wait(_IN_SERVICE_SECONDS)
        with elsewhere():
            publish(self.release_store, self.releases.staging("sound"), manifest, wait=wait)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Do what an operator or a workflow does, whose machine is not the servers'."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    if os.geteuid() == 0:  # only root may take it back
        os.setpriority(os.PRIO_PROCESS, thread, 19)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, thread, before)


@dataclass
class Record:
    """What happened when, on the monotonic clock, and what was seen to be wrong."""

    faults: list[float] = field(default_factory=list)
    healed: float | None = None
    downs: list[Down] = field(default_factory=list)
    swaps: list[tuple[float, float]] = field(default_factory=list)
    retired: dict[int, float] = field(default_factory=dict)
    """From when no answer may name these releases."""
    splits: list[SplitWindow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


class Stage:
    """Handed to a scenario: the cluster, its releases, and the record of this run."""

    def __init__(self, world: World, releases: Sequence[int]) -> None:
        self.world = world
        self.cluster = world.cluster
        self.record = Record()
        self._releases = list(releases)

    def wait(self, seconds: float) -> None:
        """Let time pass under load; the quick form has less of it."""
        time.sleep(seconds * (0.4 if self.world.quick else 1.0))

    def next_release(self) -> int:
        """Take the next of the releases that the scenario needs."""
        return self._releases.pop(0)

    def publish(self, *, force: bool = False) -> int:
        """Publish the next release, which is a sound one."""
        release = self.next_release()
        self.world.publish(release, force=force)
        return release

    def swap(self) -> int:
        """Publish the next release and wait until every recommender answers from it."""
        with self.swapping():
            release = self.publish()
            self.cluster.wait_pinned(release)
        return release

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Note the block as the time of a swap."""
        begin = time.monotonic()
        yield
        self.record.swaps.append((begin, time.monotonic()))

    @contextmanager
    def fault(self, replica: Replica | None = None) -> Iterator[None]:
        """Note the block as a fault; a recommender's own is told apart from the others."""
        begin = time.monotonic()
        self.record.faults.append(begin)
        yield
        self.record.healed = time.monotonic()
        if replica in self.cluster.recommenders:
            target = self.cluster.recommenders.index(replica)
            end = self.record.healed + _BACK_IN_THE_ROUND_SECONDS
            self.record.downs.append(Down(target, begin, end))

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a problem unless the condition holds."""
        if not holds:
            self.record.problems.append(otherwise)

    def expect_within(self, seconds: float, ready, otherwise: str) -> bool:
        """Wait for a condition; note a problem when it does not come true in time."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                self.record.problems.append(otherwise)
                return False
            time.sleep(0.05)
        return True

    def attempt(self, what: str, action) -> None:
        """Do something whose failure is a finding and not the end of the suite."""
        try:
            action()
        except StackError as error:
            self.record.problems.append(f"{what}: {error}")
