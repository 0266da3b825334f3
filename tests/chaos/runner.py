"""Plays scenarios under load, one after another, and judges each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.errors import StackError
from local_stack.processes import Process
from releases.errors import ReleaseError
from tests.chaos.load import LoadPlan, user_name
from tests.chaos.outcome import Outcome, judge
from tests.chaos.results import Result, percentile_ms, read_results
from tests.chaos.rotated import LIMIT, USERS, Catalogue
from tests.chaos.stage import Scenario, Stage, World
from tests.chaos.standstills import Standstills
from tests.chaos.verify import AnswerCheck

__all__ = ["LoadMaker", "play", "record_histories", "sustainable_rate"]

_BEFORE_SECONDS = 2.0
_AFTER_SECONDS = 1.5
_READY_SECONDS = 20.0
_END_SECONDS = 15.0
_VIEWS_AT_ONCE = 16
_FIRST_VIEW_MS = 1_700_000_000_000
_RAMP = (60, 90, 120, 150, 200, 250, 300, 400, 550, 700, 900)
_RAMP_SECONDS = 4.0
_RAMP_TRIES = 2
_GOOD_P99_MS = 25.0
_GOOD_SHARE = 0.99


class LoadMaker:
    """Starts a load process for each scenario."""

    def __init__(self, directory: Path, recommenders: Sequence[str], rate: float) -> None:
        self._directory = directory
        self._recommenders = tuple(recommenders)
        self._runs = 0
        self.rate = rate
        self.core: int | None = None
        """The only core for it, None: any."""

    @contextmanager
    def running(self, rate: float | None = None) -> Iterator[list[Result]]:
        """Ask for as long as the block runs; afterwards the list holds every result."""
        self._runs += 1
        path = self._directory / f"results-{self._runs}.jsonl"
        plan = LoadPlan(
            self._recommenders,
            rate or self.rate,
            USERS,
            LIMIT,
            seed=self._runs,
            results=str(path),
            core=self.core,
        )
        process = Process("load", plan.command(), path.with_suffix(".log"), {})
        results: list[Result] = []
        try:
            process.wait_until(plan.ready_file.exists, _READY_SECONDS)
            yield results
        finally:
            code = process.stop(_END_SECONDS)
        if code != 0:
            raise StackError(f"the load process ended with {code}: {process.last_words()}")
        results += read_results(path)


def record_histories(address: str, catalogue: Catalogue) -> None:
    """Record every user's views, oldest first, through a recommender."""
    with grpc.insecure_channel(address) as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)
        waiting = []
        for user in range(USERS):
            waiting.append(stub.RecordViews.future(_views(user, catalogue), timeout=10))
            if len(waiting) == _VIEWS_AT_ONCE:
                waiting.pop(0).result()
        for call in waiting:
            call.result()


def _views(user: int, catalogue: Catalogue) -> pb2.RecordViewsRequest:
    oldest_first = catalogue.history(user)[::-1].tolist()
    return pb2.RecordViewsRequest(
        user_id=user_name(user),
        views=[
            pb2.View(article_id=article, viewed_at_ms=_FIRST_VIEW_MS + place)
            for place, article in enumerate(oldest_first)
        ],
    )


def sustainable_rate(load: LoadMaker) -> float:
    """Raise the rate step by step; answer the last at which nearly all was well.

    A step that fails is tried once more: on a shared machine one stall of a tenth of a second is
    enough, and it says nothing about the stack.
    """
    best = float(_RAMP[0])
    for rate in _RAMP:
        if not any(_is_sustained(load, rate) for _ in range(_RAMP_TRIES)):
            break
        best = float(rate)
    return best


def _is_sustained(load: LoadMaker, rate: float) -> bool:
    with load.running(rate) as results:
        time.sleep(_RAMP_SECONDS)
    good = sum(result.personalized for result in results)
    p99 = percentile_ms(results, 99)
    return good >= _GOOD_SHARE * len(results) and p99 is not None and p99 <= _GOOD_P99_MS


def play(
    scenario: Scenario,
    world: World,
    releases: Sequence[int],
    load: LoadMaker,
    check: AnswerCheck,
    standstills: Standstills,
) -> Outcome:
    """Run one scenario under load and judge it. What it leaves broken is mended for the next."""
    cluster = world.cluster
    begin = time.monotonic()
    cluster.use_links(proxied=scenario.proxied)
    cluster.wait_full_service()
    stage = Stage(world, releases)
    with load.running() as results:
        stage.wait(_BEFORE_SECONDS)
        try:
            scenario.run(stage)
        except (StackError, ReleaseError, grpc.RpcError) as error:
            stage.record.problems.append(str(error))
        stage.wait(_AFTER_SECONDS)
    crashes = cluster.note_crashes()
    try:
        cluster.wait_full_service()
    except StackError as error:
        stage.record.problems.append(f"afterwards: {error}")
        cluster.restart()
    verdict = check.verdict(results, world.published)
    during = [one for one in standstills.seen() if one.end > begin]
    return judge(scenario, results, stage.record, verdict, crashes, during)
