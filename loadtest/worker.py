"""`python -m loadtest.worker`: one process that asks, in step with nobody's answers.

Reads a LoadPlan from standard input, writes `ready`, reads the moment of the start (on the clock
CLOCK_MONOTONIC, the same for all processes), and writes what it measured as one line of JSON.
Latency counts from the moment at which a request was due: neither a slow server nor a slow
generator is glossed over.
"""

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import uvloop
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from loadtest.latencies import Latencies
from loadtest.plan import LoadPlan, arrivals

__all__ = ["Asker", "main"]

_METHOD = "/recsys.recommender.v1.RecommenderService/GetCandidates"
_LEAST_TIMEOUT_SECONDS = 0.001
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
        self.stages: dict[str, Latencies] = {}

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
            early = due - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
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
        call = self._call(request, timeout=timeout)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self._count_failure(due, error.code().name)
            return
        finished = time.monotonic()
        if due >= self._counts_from:
            self.latencies.record(finished - due)
            self.lags.record(sent - due)
            await self._count_answer(answer, call.trailing_metadata())

    def _count_failure(self, due: float, code: str) -> None:
        if due >= self._counts_from:
            self.codes[code] += 1

    async def _count_answer(
        self, answer: pb2.GetCandidatesResponse, metadata: Awaitable[Any]
    ) -> None:
        self.codes["OK"] += 1
        self.sources[pb2.Source.Name(answer.source).removeprefix(_SOURCE_PREFIX)] += 1
        self.releases[answer.release] += 1
        for key, value in await metadata:
            if key == "server-timing":
                self._count_stages(value)

    def _count_stages(self, timing: str) -> None:
        for entry in timing.split(", "):
            stage, _, milliseconds = entry.partition(";dur=")
            if milliseconds:
                self.stages.setdefault(stage, Latencies()).record(float(milliseconds) / 1000)

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


def _channel(plan: LoadPlan) -> grpc.aio.Channel:
    if plan.tls is None:
        return grpc.aio.insecure_channel(plan.target)
    tls = plan.tls
    ca, key, cert = (None if path is None else Path(path).read_bytes()
                     for path in (tls.ca, tls.key, tls.cert))  # fmt: skip
    options = [] if tls.name is None else [("grpc.ssl_target_name_override", tls.name)]
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return grpc.aio.secure_channel(plan.target, credentials, options=options)


async def _measure(plan: LoadPlan) -> dict[str, Any]:
    async with _channel(plan) as channel:
        call: Call = channel.unary_unary(
            _METHOD, response_deserializer=pb2.GetCandidatesResponse.FromString
        )
        await asyncio.wait_for(channel.channel_ready(), plan.deadline_seconds + 5)
        asker = Asker(plan, call)
        gc.collect()
        gc.disable()  # a minute at the most, and a collection would count as somebody's latency
        print("ready", flush=True)
        await asker.run(float(await asyncio.to_thread(sys.stdin.readline)))
    return asker.result()


def main() -> None:
    """Measure as the plan on standard input says."""
    plan = LoadPlan.from_json(sys.stdin.readline())
    print(json.dumps(uvloop.run(_measure(plan))), flush=True)


if __name__ == "__main__":
    main()
