"""What is left of the service at three times the rate that it sustains.

The servers share one core and the load has another, where there are two: refusing is work too, and
the question is what it takes from answering, not what the caller's own work takes.
"""

import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chaos.cluster import Cluster
from tests.chaos.load import DEADLINE_SECONDS
from tests.chaos.replica import Replica
from tests.chaos.results import Result
from tests.chaos.runner import LoadMaker

__all__ = ["Overload", "measure_overload"]

_RAMP = (40, 60, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800)
_RAMP_SECONDS = 3.0
_SUSTAINED_SHARE = 0.99
_PAST_THE_BEST = 0.7
_PAIRS = 9
_SECONDS = 5.0
_TIMES = 3.0
_HEALTH_EVERY_SECONDS = 0.1
_HEALTH_TIMEOUT_SECONDS = 1.0
_SERVER_CORE, _LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Overload:
    """Goodput is PERSONALIZED answers inside the deadline, per second."""

    sustained_rate: float
    """The highest rate of which 99 % became goodput."""
    best_rate: float
    """The rate with the best goodput."""
    best_goodput: float
    goodput_at_three_times: float
    ratios: tuple[float, ...]
    """Of the interleaved pairs."""
    codes_at_three_times: dict[str, int]
    busy_at_best: float
    """Share of the time that recommenders' threads ran or waited for a core."""
    busy_at_three_times: float
    health_checks: int
    health_failures: int
    memory_growth: float
    """The largest of all servers: after, against before."""

    @property
    def ratio(self) -> float:
        """Answer the median over the pairs."""
        return statistics.median(self.ratios)


def measure_overload(cluster: Cluster, load: LoadMaker, *, quick: bool) -> Overload:
    """Find the best rate, then compare it with three times what is sustained."""
    with _on_one_core(cluster.servers) as load_core:
        load.core = load_core
        try:
            return _measured(cluster, load, quick=quick)
        finally:
            load.core = None


def _measured(cluster: Cluster, load: LoadMaker, *, quick: bool) -> Overload:
    sustained, best = _ramp(load, _RAMP[:2] if quick else _RAMP)
    before = _memory(cluster.servers)
    health = _Health(cluster.servers)
    calm, crowded = [], []
    busy_calm, busy_crowded = _Busy(cluster.recommenders), _Busy(cluster.recommenders)
    codes: dict[str, int] = {}
    for _ in range(1 if quick else _PAIRS):
        with busy_calm.watched():
            calm.append(_goodput(_asked(load, best, _SECONDS)))
        with health.watched(), busy_crowded.watched():
            results = _asked(load, _TIMES * sustained, _SECONDS)
        crowded.append(_goodput(results))
        for result in results:
            codes[result.code] = codes.get(result.code, 0) + 1
    after = _memory(cluster.servers)
    return Overload(
        sustained_rate=sustained,
        best_rate=best,
        best_goodput=round(statistics.median(calm), 1),
        goodput_at_three_times=round(statistics.median(crowded), 1),
        ratios=tuple(round(b / a, 3) for a, b in zip(calm, crowded, strict=True)),
        codes_at_three_times=codes,
        busy_at_best=round(busy_calm.share(), 3),
        busy_at_three_times=round(busy_crowded.share(), 3),
        health_checks=health.checks,
        health_failures=health.failures,
        memory_growth=round(max(after[name] / before[name] for name in before), 3),
    )


def _ramp(load: LoadMaker, rates: Sequence[float]) -> tuple[float, float]:
    """Raise the rate until goodput falls; answer the rate sustained, and that of the best.

    Asked twice where not all is well: a moment in which the machine stands still is no limit.
    """
    sustained, best, most = float(rates[0]), float(rates[0]), 0.0
    for rate in rates:
        tries = [_asked(load, rate, _RAMP_SECONDS)]
        if not _is_sustained(tries[0]):
            tries.append(_asked(load, rate, _RAMP_SECONDS))
        if any(map(_is_sustained, tries)):
            sustained = float(rate)
        good = max(map(_goodput, tries))
        if good > most:
            best, most = float(rate), good
        if good < _PAST_THE_BEST * most:
            break
    return sustained, best


def _asked(load: LoadMaker, rate: float, seconds: float) -> list[Result]:
    with load.running(rate) as results:
        time.sleep(seconds)
    return results


def _is_sustained(results: Sequence[Result]) -> bool:
    return sum(map(_is_good, results)) >= _SUSTAINED_SHARE * len(results)


def _is_good(result: Result) -> bool:
    return result.personalized and result.latency <= DEADLINE_SECONDS


def _goodput(results: Sequence[Result]) -> float:
    seconds = results[-1].due - results[0].due
    return sum(map(_is_good, results)) / seconds


def _memory(servers: Sequence[Replica]) -> dict[str, int]:
    return {one.name: psutil.Process(one.running.pid).memory_info().rss for one in servers}


class _Busy:
    """How much of the time servers' event loops ran or waited for a core, by the kernel's count."""

    def __init__(self, servers: Sequence[Replica]) -> None:
        self._servers = servers
        self._busy_ns = self._watched_ns = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count for as long as the block runs."""
        busy, started = self._until_now(), time.perf_counter_ns()
        yield
        self._busy_ns += self._until_now() - busy
        self._watched_ns += (time.perf_counter_ns() - started) * len(self._servers)

    def share(self) -> float:
        """Answer the share."""
        return self._busy_ns / self._watched_ns

    def _until_now(self) -> int:
        counts = (Path(f"/proc/{one.running.pid}/schedstat").read_text() for one in self._servers)
        return sum(int(number) for count in counts for number in count.split()[:2])


class _Health:
    """Asks every server for its health, again and again."""

    def __init__(self, servers: Sequence[Replica]) -> None:
        self._addresses = [one.address for one in servers]
        self.checks = 0
        self.failures = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask for as long as the block runs."""
        stop = threading.Event()
        asking = threading.Thread(target=self._ask, args=(stop,))
        asking.start()
        try:
            yield
        finally:
            stop.set()
            asking.join()

    def _ask(self, stop: threading.Event) -> None:
        channels = [grpc.insecure_channel(address) for address in self._addresses]
        stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
        while not stop.wait(_HEALTH_EVERY_SECONDS):
            for stub in stubs:
                self.checks += 1
                try:
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_SECONDS)
                except grpc.RpcError:
                    self.failures += 1
        for channel in channels:
            channel.close()


@contextmanager
def _on_one_core(servers: Sequence[Replica]) -> Iterator[int | None]:
    """Keep the servers on one core while the block runs; yields the one for the load, if any."""
    cores = os.sched_getaffinity(0)
    if not {_SERVER_CORE, _LOAD_CORE} <= cores:
        yield None
        return
    _keep_on(servers, {_SERVER_CORE})
    try:
        yield _LOAD_CORE
    finally:
        _keep_on(servers, cores)


def _keep_on(servers: Sequence[Replica], cores: set[int]) -> None:
    for server in servers:
        for thread in Path(f"/proc/{server.running.pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)
