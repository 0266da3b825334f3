"""Releases that come and go under load, and servers that are restarted in good order."""

import subprocess
import sys
import time
from functools import partial

from local_stack.processes import tied_to_this_process
from releases.errors import ReleaseError
from releases.verify import verify
from tests.chaos.cluster import HOSTS
from tests.chaos.comparison import candidate_overlap
from tests.chaos.replica import Replica
from tests.chaos.results import SplitWindow
from tests.chaos.stage import Rule, Scenario, Stage

__all__ = ["SWAPS"]

_IN_A_ROW = 20
_ELSEWHERE = ("nice", "-n", "19")
"""Before the commands of an operator, whose machine is not the servers'."""
_BURST = 6
_STEPS_BACK_SECONDS = 3.0
_BEHIND_SECONDS = 4.0
_TOLD_SECONDS = 10.0
_SPLIT_SECONDS = 3.0
_RESOLVED_SECONDS = 4.0  # names are resolved every 3 s


def _steady(stage: Stage) -> None:
    stage.wait(15)


def _one_swap(stage: Stage) -> None:
    stage.swap()
    stage.wait(2)


def _many_swaps(stage: Stage) -> None:
    for _ in range(_IN_A_ROW):
        stage.swap()


def _burst(stage: Stage) -> None:
    """Nobody waits for the previous release: servers fall behind and skip."""
    with stage.swapping():
        newest = [stage.publish(force=True) for _ in range(_BURST)][-1]
        stage.cluster.wait_pinned(newest)
    stage.wait(2)


def _two_publishers(stage: Stage) -> None:
    """Two of different releases at once, then two of the same one."""
    first, second = stage.next_release(), stage.next_release()
    codes = _publish_at_once(stage, [first, second])
    stage.expect(codes == [0, 0], f"publishing two releases at once ended with {codes}")
    stage.cluster.wait_pinned(second)
    twice = stage.next_release()
    codes = _publish_at_once(stage, [twice, twice])
    stage.expect(0 in codes, f"publishing one release twice at once ended with {codes}")
    try:
        verify(stage.world.release_store, twice)
    except ReleaseError as error:
        stage.record.problems.append(f"published twice at once: {error}")
    stage.cluster.wait_pinned(twice)


def _publish_at_once(stage: Stage, releases: list[int]) -> list[int]:
    world = stage.world
    with stage.swapping():
        world.published |= set(releases)
        publishers = [
            subprocess.Popen(
                tied_to_this_process(
                    [
                        *_ELSEWHERE, sys.executable, "-m", "releases", "publish",
                        "--store", str(world.store),
                        "--staging", str(world.releases.staging("sound")),
                        "--manifest", str(world.releases.manifest_file(release)),
                    ]
                ),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for release in releases
        ]  # fmt: skip
        return [publisher.wait(60) for publisher in publishers]


def _withdraw(stage: Stage) -> None:
    before = stage.cluster.pinned()[0]
    release = stage.swap()
    stage.wait(1)
    with stage.swapping():
        begin = time.monotonic()
        stage.world.release_store.withdraw(release)
        stage.cluster.wait_pinned(before)
        stage.record.figures["steps_back_seconds"] = round(time.monotonic() - begin, 2)
    stage.record.retired[release] = begin + _STEPS_BACK_SECONDS
    stage.wait(_STEPS_BACK_SECONDS + 1)


def _different_speeds(stage: Stage) -> None:
    """One model server's files come late, then both of them, then an index."""
    cluster = stage.cluster
    for slow in ([cluster.side_cars[0]], cluster.side_cars):
        for side_car in slow:
            side_car.stop()
        before = cluster.pinned()
        release = stage.publish()
        with stage.swapping():
            stage.wait(_BEHIND_SECONDS)
            stage.expect(cluster.pinned() == before, "a release was used that not everyone held")
            for side_car in slow:
                side_car.resume()
            cluster.wait_pinned(release)
    with stage.swapping():
        before = cluster.pinned()
        with cluster.old_store(0):
            release = stage.publish()
            stage.wait(_BEHIND_SECONDS)
            stage.expect(cluster.pinned() == before, "a release was used that not everyone held")
        cluster.wait_pinned(release)
    stage.wait(1)


def _full_disk(stage: Stage) -> None:
    """Nobody can write what is new; the old release serves, and the new one comes with room."""
    cluster = stage.cluster
    hosts = [*cluster.side_cars, *cluster.indexes]
    before = cluster.pinned()
    failures = [index.metric("recsys_store_poll_failures_total") for index in cluster.indexes]
    for part in hosts:
        part.limit_files(200_000)
    release = stage.publish()
    for part in hosts:  # a side-car takes its time before it looks for what is new
        told = partial(_full_disk_lines, part, release)
        stage.expect_within(_TOLD_SECONDS, told, f"{part.name}: no log line of the full disk")
    stage.wait(1)
    stage.expect(cluster.pinned() == before, "a release that nobody could store was pinned")
    for index, count in zip(cluster.indexes, failures, strict=True):
        counted = index.metric("recsys_store_poll_failures_total") > count
        stage.expect(counted, f"{index.name}: the full disk is in no metric")
    for part in hosts:
        lines = _full_disk_lines(part, release)
        stage.expect(len(lines) <= 1, f"{part.name}: {len(lines)} log lines of the full disk")
        part.limit_files(None)
    with stage.swapping():
        cluster.wait_pinned(release)
    stage.wait(1)


def _full_disk_lines(part: Replica, release: int) -> list[str]:
    return [line for line in part.log_lines() if f"cannot take release {release}" in line]


def _split(stage: Stage) -> None:
    """A tenth of the users get the newest release, then all of them."""
    before = stage.cluster.pinned()[0]
    release = stage.swap()
    for share in (0.1, 1.0):
        _run_split(stage, release, share)
        begin = time.monotonic() + _SPLIT_SECONDS
        stage.wait(_SPLIT_SECONDS + 5)
        if share < 1:
            overlap = candidate_overlap(stage.cluster.recommenders[0].address, (before, release))
            stage.record.figures["split_overlap"] = overlap
        stage.record.splits.append(SplitWindow(release, share, begin, time.monotonic()))


def _run_split(stage: Stage, release: int, share: float) -> None:
    command = [
        *_ELSEWHERE,
        sys.executable,
        "-m",
        "releases",
        "split",
        "--store",
        str(stage.world.store),
    ]
    subprocess.run(
        tied_to_this_process([*command, f"{release}={share:.0%}"]),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _leave_the_name(stage: Stage) -> None:
    """A faiss server leaves its name, ends, and comes back to it."""
    cluster, leaving = stage.cluster, stage.cluster.indexes[1]
    cluster.name_addresses("faiss", HOSTS[:1])
    stage.wait(_RESOLVED_SECONDS)
    leaving.terminate()
    stage.wait(1)
    leaving.start()
    leaving.wait_serving()
    cluster.name_addresses("faiss", HOSTS)
    stage.wait(_RESOLVED_SECONDS)


def _rolling_restart(stage: Stage) -> None:
    cluster = stage.cluster
    for part in [*cluster.servers, *cluster.side_cars]:
        part.terminate()
        part.start()
        part.wait_serving()
        stage.wait(1)


SWAPS = (
    Scenario("steady", Rule.UNDISTURBED, _steady),
    Scenario("swap", Rule.SMOOTH, _one_swap, ("sound",), quick=True),
    Scenario("20 releases in a row", Rule.SMOOTH, _many_swaps, ("sound",) * _IN_A_ROW),
    Scenario("two publishers", Rule.SMOOTH, _two_publishers, ("sound",) * 3),
    Scenario("withdrawal", Rule.SMOOTH, _withdraw, ("sound",)),
    Scenario("split", Rule.SMOOTH, _split, ("sound",)),
    Scenario("different speeds", Rule.SMOOTH, _different_speeds, ("sound",) * 3),
    Scenario("full disk", Rule.SMOOTH, _full_disk, ("sound",)),
    Scenario("rolling restart", Rule.SMOOTH, _rolling_restart),
    Scenario("address leaves the name", Rule.SMOOTH, _leave_the_name),
    Scenario("burst of releases", Rule.SMOOTH, _burst, ("sound",) * _BURST),
)
