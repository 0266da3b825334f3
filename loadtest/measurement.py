"""Runs load processes in step and puts together what they and the servers' counters say."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from loadtest.errors import LoadTestError
from loadtest.latencies import Latencies
from loadtest.plan import LoadPlan
from loadtest.usage import StolenTime, Usage, UsageMeter
from local_stack.processes import tied_to_this_process

__all__ = ["Measurement", "measure"]

_HEAD_START_SECONDS = 0.2
_TICK_SECONDS = 0.2
_END_SECONDS = 30.0

Tick = Callable[[float], None]
"""Called again and again with the share of the time that has passed, 0 to 1."""


@dataclass(frozen=True)
class Measurement:
    """What came back of the requests that were due within `seconds`."""

    plan: LoadPlan
    seconds: float
    codes: Mapping[str, int]
    sources: Mapping[str, int]
    releases: Mapping[str, int]
    latencies: Latencies
    """Of answered requests, from the moment at which each was due."""
    lags: Latencies
    """By how much requests were sent late: the generator's own share."""
    stages: Mapping[str, Latencies]
    usage: Usage | None
    """Of the servers, where they run on this machine; warm-up excluded."""
    stolen_share: float
    """Of this machine's cores, what the host of a virtual machine gave to others meanwhile."""

    @property
    def requests(self) -> int:
        """How many were asked."""
        return sum(self.codes.values())

    @property
    def answered(self) -> int:
        """How many were answered."""
        return self.codes.get("OK", 0)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds

    @property
    def personalized_share(self) -> float:
        """Of the requests, how many were answered PERSONALIZED."""
        return self.sources.get("PERSONALIZED", 0) / self.requests

    @property
    def cpu_ms_per_request(self) -> float | None:
        """CPU time of all servers for each answer."""
        if self.usage is None or not self.answered:
            return None
        return 1000 * self.usage.cpu_seconds / self.answered


def measure(
    plan: LoadPlan,
    *,
    processes: int = 1,
    pids: Mapping[str, int] | None = None,
    tick: Tick = lambda _: None,
) -> Measurement:
    """Carry the plan out with its rate or clients divided between processes.

    `pids`: the servers' process ids by name, to measure what they use. Raises LoadTestError when a
    load process fails, or when not one request was due within the time.
    """
    plans = _divided(plan, processes)
    with _workers(len(plans)) as workers:
        for worker, part in zip(workers, plans, strict=True):
            _tell(worker, part.to_json())
        for worker in workers:
            _expect_ready(worker)
        start = time.monotonic() + _HEAD_START_SECONDS
        for worker in workers:
            _tell(worker, repr(start))
        usage, stolen_share = _watch(plan, start, pids or {}, tick)
        results = [_result(worker) for worker in workers]
    return _together(plan, results, usage, stolen_share)


def _divided(plan: LoadPlan, processes: int) -> list[LoadPlan]:
    if plan.clients is not None:
        shares = [len(range(number, plan.clients, processes)) for number in range(processes)]
        return [
            replace(plan, clients=share, seed=plan.seed + number)
            for number, share in enumerate(shares)
            if share
        ]
    rate = cast("float", plan.rate) / processes
    # Poisson processes add up to one.
    return [replace(plan, rate=rate, seed=plan.seed + number) for number in range(processes)]


@contextmanager
def _workers(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = tied_to_this_process([sys.executable, "-m", "loadtest.worker"])
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()  # has no effect on one that has ended
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                cast("IO[str]", pipe).close()


def _tell(worker: subprocess.Popen[str], line: str) -> None:
    pipe = cast("IO[str]", worker.stdin)
    try:
        pipe.write(line + "\n")
        pipe.flush()
    except BrokenPipeError:
        raise _failure() from None


def _expect_ready(worker: subprocess.Popen[str]) -> None:
    if cast("IO[str]", worker.stdout).readline() != "ready\n":
        raise _failure()


def _result(worker: subprocess.Popen[str]) -> dict[str, Any]:
    line = cast("IO[str]", worker.stdout).readline()
    if not line:
        raise _failure()
    result: dict[str, Any] = json.loads(line)
    return result


def _failure() -> LoadTestError:
    return LoadTestError("a load process failed; its reason is above")


def _watch(
    plan: LoadPlan, start: float, pids: Mapping[str, int], tick: Tick
) -> tuple[Usage | None, float]:
    """Answer what the servers used after the warm-up, and what share of the cores was stolen."""
    whole = plan.warmup_seconds + plan.seconds

    def wait_until(moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_SECONDS))
            tick(min(1.0, max(0.0, (time.monotonic() - start) / whole)))

    wait_until(start + plan.warmup_seconds)
    began, meter, stolen = time.monotonic(), UsageMeter(pids) if pids else None, StolenTime()
    wait_until(start + whole)
    seconds = time.monotonic() - began
    return meter.since(seconds) if meter else None, stolen.share(seconds)


def _together(
    plan: LoadPlan,
    results: Sequence[Mapping[str, Any]],
    usage: Usage | None,
    stolen_share: float,
) -> Measurement:
    codes, sources, releases = (
        sum((Counter(result[key]) for result in results), Counter())
        for key in ("codes", "sources", "releases")
    )
    if not codes:
        raise LoadTestError(
            f"not one request was due in {plan.seconds:g} s; ask more often or for longer"
        )
    stages = {stage for result in results for stage in result["stages"]}
    return Measurement(
        plan,
        plan.seconds,
        codes,
        sources,
        releases,
        Latencies.merged(result["latencies"] for result in results),
        Latencies.merged(result["lags"] for result in results),
        {
            stage: Latencies.merged(
                result["stages"][stage] for result in results if stage in result["stages"]
            )
            for stage in sorted(stages)
        },
        usage,
        stolen_share,
    )
