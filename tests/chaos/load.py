"""`python -m tests.chaos.load PLAN`: asks for candidates at random times, whatever comes back.

Open loop: a slow answer delays no later request, and latency counts from the moment at which the
request was due. The client is a well-kept one: it watches the health of every recommender, sends
in turn to those that are SERVING, and leaves one out that is UNAVAILABLE, or late three times in a
row, until it answers for its health anew. It never retries, so nothing is glossed over.
A process of its own: what the rest of the suite does must not delay it. Ends on SIGTERM.
"""

import os
import sys

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import gc
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from service_runtime.channels import grpcio_channel
from tests.chaos.results import HUNG, Result

__all__ = ["DEADLINE_SECONDS", "SAMPLE_EVERY", "LoadPlan", "user_name"]

DEADLINE_SECONDS = 0.05
SAMPLE_EVERY = 10
"""One in so many answers is kept whole."""
_LATE_IN_A_ROW = 3
_REWATCH_SECONDS = 0.05
_HUNG_AFTER_SECONDS = 1.0
_LEAST_TIMEOUT_SECONDS = 0.001


@dataclass(frozen=True)
class LoadPlan:
    """What to ask whom, how often, and where to write the results."""

    recommenders: tuple[str, ...]
    requests_per_second: float
    users: int
    limit: int
    seed: int
    results: str
    core: int | None = None
    """The only core to run on; None: any."""

    @property
    def ready_file(self) -> Path:
        """There once every recommender is SERVING and requests are being sent."""
        return Path(self.results + ".ready")

    def command(self) -> list[str]:
        """Answer the command that carries the plan out."""
        return [sys.executable, "-m", "tests.chaos.load", json.dumps(asdict(self))]


def user_name(user: int) -> str:
    """Answer the user id of a user of the catalogue."""
    return f"user-{user}"


class _Recommender:
    """One address: its health, and how its last calls went."""

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.serving = False
        channel = grpcio_channel(address)
        self.stub = pb2_grpc.RecommenderServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self._watch: Any = None
        self._late = 0

    async def follow_health(self) -> None:
        while True:
            self._watch = self._health.Watch(health_pb2.HealthCheckRequest())
            try:
                async for answer in self._watch:
                    self.serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError:
                pass
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            self.serving = False
            await asyncio.sleep(_REWATCH_SECONDS)

    def heard(self, code: str) -> None:
        """Leave the address out after a call that ended like this, where that says it is away."""
        self._late = self._late + 1 if code == "DEADLINE_EXCEEDED" else 0
        if code == "UNAVAILABLE" or self._late >= _LATE_IN_A_ROW:
            self._late = 0
            self.serving = False
            self._watch.cancel()


class _Load:
    def __init__(self, plan: LoadPlan, out: TextIO) -> None:
        self._plan = plan
        self._out = out
        self._random = Random(plan.seed)
        self._recommenders = [
            _Recommender(number, address) for number, address in enumerate(plan.recommenders)
        ]
        self._sent = 0

    async def run(self, stop: asyncio.Event) -> None:
        watches = [asyncio.create_task(one.follow_health()) for one in self._recommenders]
        while not all(one.serving for one in self._recommenders):
            await asyncio.sleep(0.01)
        self._plan.ready_file.touch()
        gc.collect()
        gc.disable()  # minutes at the most, and a collection would count as somebody's latency
        calls: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not stop.is_set():
            due += self._random.expovariate(self._plan.requests_per_second)
            await asyncio.sleep(due - time.monotonic())
            call = asyncio.create_task(self._ask(due))
            calls.add(call)
            call.add_done_callback(calls.discard)
        if calls:
            await asyncio.wait(calls, timeout=2 * _HUNG_AFTER_SECONDS)
        for task in (*watches, *calls):
            task.cancel()
        await asyncio.gather(*watches, *calls, return_exceptions=True)

    async def _ask(self, due: float) -> None:
        number, self._sent = self._sent, self._sent + 1
        user = self._random.randrange(self._plan.users)
        recommender = self._pick(number)
        request = pb2.GetCandidatesRequest(
            user_id=user_name(user), limit=self._plan.limit, exclude_viewed=True
        )
        timeout = max(due + DEADLINE_SECONDS - time.monotonic(), _LEAST_TIMEOUT_SECONDS)
        sent, answer = time.monotonic(), None
        try:
            async with asyncio.timeout(timeout + _HUNG_AFTER_SECONDS):
                answer = await recommender.stub.GetCandidates(request, timeout=timeout)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        except TimeoutError:
            code = HUNG
        finished = time.monotonic()
        recommender.heard(code)
        whole = number % SAMPLE_EVERY == 0
        result = _result(due, sent, finished, recommender.number, code, user, answer, whole)
        self._out.write(result.to_json() + "\n")

    def _pick(self, number: int) -> _Recommender:
        serving = [one for one in self._recommenders if one.serving] or self._recommenders
        return serving[number % len(serving)]


def _result(  # noqa: PLR0917 - one row
    due: float,
    sent: float,
    finished: float,
    target: int,
    code: str,
    user: int,
    answer: pb2.GetCandidatesResponse | None,
    whole: bool,
) -> Result:
    if answer is None:
        return Result(due, sent, finished, target, code, user)
    return Result(
        due, sent, finished, target, code, user,
        source=pb2.Source.Name(answer.source).removeprefix("SOURCE_"),
        reason=pb2.FallbackReason.Name(answer.fallback_reason).removeprefix("FALLBACK_REASON_"),
        release=answer.release,
        article_ids=list(answer.article_ids) if whole else None,
        scores=list(answer.scores) if whole else None,
    )  # fmt: skip


async def _main(plan: LoadPlan) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with Path(plan.results).open("w") as out:  # noqa: ASYNC230 - before the first request
        await _Load(plan, out).run(stop)


def main(arguments: Sequence[str]) -> None:
    plan = json.loads(arguments[0])
    plan["recommenders"] = tuple(plan["recommenders"])
    if plan["core"] is not None:
        os.sched_setaffinity(0, {plan["core"]})
    asyncio.run(_main(LoadPlan(**plan)))


if __name__ == "__main__":
    main(sys.argv[1:])
