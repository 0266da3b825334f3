"""`python -m loadtest.worker`: one process that asks, in step with nobody's answers.

Reads a LoadPlan from standard input, writes `ready`, reads the moment of the start (on the clock
CLOCK_MONOTONIC, the same for all processes), and writes what it measured as one line of JSON.
Latency counts from the moment at which a request was due: neither a slow server nor a slow
generator is glossed over. It speaks by `service_runtime.asyncio_grpc`: a generator by `grpc.aio`
takes three times the CPU, and shares the cores with what it measures.
"""

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import uvloop
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from loadtest.latencies import Latencies
from loadtest.plan import LoadPlan, arrivals
from service_runtime.asyncio_grpc.channel import Channel
from service_runtime.errors import StartupError
from service_runtime.tls import CallerTls, TlsFiles

__all__ = ["Asker", "main"]

_METHOD = "/recsys.recommender.v1.RecommenderService/GetCandidates"
_LEAST_TIMEOUT_SECONDS = 0.001
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_NICE = -10
_TICK_SECONDS = 0.001
"""Of the event loop's clock: uvloop rounds to it, up or down."""
_SOURCE_PREFIX = "SOURCE_"

Call = Callable[..., Any]


class Asker:
    """Asks one recommender, and counts what came back of the calls due after the warm-up."""

    def __init__(self, plan: LoadPlan, call: Call) -> None:
        self._plan = plan
        self._call = call
        self._requests = plan.requests()
        self._random = Random(plan.seed)  # noqa: S311 - which user asks next
        self._counts_from = 0.0
        self.codes: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.releases: Counter[int] = Counter()
        self.latencies = Latencies()
        self.lags = Latencies()
        """How late requests were sent: what the generator itself adds."""
        # Made once for each, when it is first heard of: one is 140 KB of counts.
        self.stages: defaultdict[str, Latencies] = defaultdict(Latencies)

    async def run(self, start: float) -> None:
        """Ask from `start` (CLOCK_MONOTONIC) on, and return once everything is answered."""
        self._counts_from = start + self._plan.warmup_seconds
        await asyncio.sleep(start - time.monotonic())
        if self._plan.rate is not None:
            await self._ask_at_random_times(start, self._plan.rate)
        else:
            end = start + self._plan.warmup_seconds + self._plan.seconds
            clients = range(self._plan.clients or 1)
            await asyncio.gather(*(self._ask_again_and_again(end) for _ in clients))

    async def _ask_at_random_times(self, start: float, rate: float) -> None:
        seconds = self._plan.warmup_seconds + self._plan.seconds
        under_way: set[asyncio.Task[None]] = set()
        for time_from_start in arrivals(rate, seconds, self._plan.seed).tolist():
            due = start + time_from_start
            await _until(due, under_way)
            task = asyncio.create_task(self._ask(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _ask_again_and_again(self, end: float) -> None:
        while (due := time.monotonic()) < end:
            await self._ask(due)

    async def _ask(self, due: float) -> None:
        request = self._requests[self._random.randrange(len(self._requests))]
        sent = time.monotonic()
        timeout = max(due + self._plan.deadline_seconds - sent, _LEAST_TIMEOUT_SECONDS)
        trailers: list[tuple[str, str]] = []
        try:
            answer = await self._call(request, timeout=timeout, trailers=trailers)
        except grpc.aio.AioRpcError as error:
            self._count_failure(due, error.code().name)
            return
        finished = time.monotonic()
        if due >= self._counts_from:
            self.latencies.record(finished - due)
            self.lags.record(sent - due)
            self._count_answer(answer, trailers)

    def _count_failure(self, due: float, code: str) -> None:
        if due >= self._counts_from:
            self.codes[code] += 1

    def _count_answer(
        self, answer: pb2.GetCandidatesResponse, trailers: Iterable[tuple[str, str]]
    ) -> None:
        self.codes["OK"] += 1
        self.sources[pb2.Source.Name(answer.source).removeprefix(_SOURCE_PREFIX)] += 1
        self.releases[answer.release] += 1
        for key, value in trailers:
            if key == "server-timing":
                self._count_stages(value)

    def _count_stages(self, timing: str) -> None:
        for entry in timing.split(", "):
            stage, _, milliseconds = entry.partition(";dur=")
            if milliseconds:
                self.stages[stage].record(float(milliseconds) / 1000)

    def result(self) -> dict[str, Any]:
        """Answer what was counted, as JSON takes it."""
        return {
            "codes": self.codes,
            "sources": self.sources,
            "releases": {str(release): count for release, count in self.releases.items()},
            "latencies": self.latencies.encode(),
            "lags": self.lags.encode(),
            "stages": {stage: times.encode() for stage, times in self.stages.items()},
        }


async def _until(due: float, under_way: Collection[object]) -> None:
    """Wait until CLOCK_MONOTONIC says `due`, never less.

    More exactly than the event loop's clock where nothing is under way: looking at the time again
    and again takes a core from nobody then.
    """
    while (early := due - time.monotonic()) > 0:
        if early > 2 * _TICK_SECONDS:
            await asyncio.sleep(early - 2 * _TICK_SECONDS)
        else:
            await asyncio.sleep(_TICK_SECONDS if under_way else 0)


def _channel(plan: LoadPlan) -> Channel:
    if plan.tls is None:
        return Channel(plan.target, max_message_bytes=_MAX_MESSAGE_BYTES)
    ca, certificate, key = (
        None if path is None else Path(path) for path in (plan.tls.ca, plan.tls.cert, plan.tls.key)
    )
    name = plan.tls.name or plan.target.rpartition(":")[0]
    tls = CallerTls(TlsFiles(certificate, key, ca), name, "--tls-ca, --tls-cert, --tls-key")
    return Channel(
        plan.target, max_message_bytes=_MAX_MESSAGE_BYTES, tls=tls.context(), server_name=name
    )


def _go_first() -> None:
    """Take a core before the servers, where this process may (CAP_SYS_NICE).

    On the same machine it would wait for them, and count that as their latency; callers are
    elsewhere.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


async def _measure(plan: LoadPlan) -> dict[str, Any]:
    _go_first()
    try:
        channel = _channel(plan)
    except StartupError as error:
        sys.exit(str(error))
    call = channel.unary_unary(_METHOD, response_deserializer=pb2.GetCandidatesResponse.FromString)
    try:
        await channel.connect(_CONNECT_SECONDS)
    except grpc.aio.AioRpcError as error:
        sys.exit(f"{plan.target}: {error.details()}")
    asker = Asker(plan, call)
    gc.collect()
    gc.disable()  # a minute at the most, and a collection would count as somebody's latency
    print("ready", flush=True)
    await asker.run(float(await asyncio.to_thread(sys.stdin.readline)))
    await channel.close(0)
    return asker.result()


def main() -> None:
    """Measure as the plan on standard input says."""
    plan = LoadPlan.from_json(sys.stdin.readline())
    print(json.dumps(uvloop.run(_measure(plan))), flush=True)


if __name__ == "__main__":
    main()
