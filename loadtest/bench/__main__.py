"""`python -m loadtest.bench`: this stack against its plain chain, in one interleaved run.

QUICK=1 measures each thing for a moment on a small catalogue, which checks the machinery and not
the figures.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, Self

from rich.console import Console
from rich.progress import Progress

from loadtest.bench.catalogue import RELEASE
from loadtest.bench.companion import Companion
from loadtest.bench.comparison import (
    OURS,
    PLAIN_CHAIN,
    measure_pairs,
)
from loadtest.bench.ladder import Ladder, climb
from loadtest.bench.report import Found, bench_report
from loadtest.bench.stacks import (
    CACHE,
    PLAIN_SETTINGS,
    Prepared,
    prepare,
    running_stacks,
    seconds_to_serving,
)
from loadtest.bench.tails import measure_tails
from loadtest.errors import LoadTestError
from loadtest.latencies import Latencies
from loadtest.plan import LoadPlan
from local_stack.errors import StackError
from local_stack.stack import LocalStack
from reporting import print_report, write_report

_BUILD: Final = Path("build")
_BUDGET_MS: Final = 10.0
_DEADLINE_SECONDS: Final = 1.0
_CLIENTS: Final = 64


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    articles: int
    rounds: int
    seconds: float
    warmup_seconds: float
    rates: tuple[float, ...]
    ladder: Ladder
    """Where the highest rate is searched."""
    tails_rate: float
    tails_seconds: float
    tails_rounds: int
    starts: int
    """Of each server whose time to SERVING is told."""


# A ratio of 1.5 is to be seen, so the last steps are smaller than that; and a p99 needs a hundred
# requests, which at less than 10/s would take longer than all else.
_STEP: Final = 1.35
_PIECE_WARMUP_SECONDS: Final = 0.2
_LADDER: Final = Ladder(
    [10 * _STEP ** (3 * rung) for rung in range(7)], 1.0, 3, 100, finer=(_STEP, _STEP**2)
)
FULL: Final = Size(1_000_000, 5, 2.0, 0.5, (50, 100, 200, 500), _LADDER, 100, 7.0, 3, 3)
QUICK: Final = Size(20_000, 1, 0.5, 0.2, (50,), Ladder((50.0,), 0.5, 1), 50, 2.0, 1, 1)


def main() -> int:
    """Measure, print, write the report; answer the exit code."""
    quick = bool(os.environ.get("QUICK"))
    console = Console()
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        # Beside the cache, whose files are linked.
        with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE.parent) as directory:
            found = _measure(Path(directory), QUICK if quick else FULL, console)
    except (LoadTestError, StackError) as error:
        sys.exit(f"bench: {error}")
    report = bench_report(found, quick=quick)
    print_report(report, console)
    write_report(report, _BUILD / "bench")
    console.print(f"report: {_BUILD / 'bench' / 'report.html'}")
    return 0 if report.holds else 1


def _measure(directory: Path, size: Size, console: Console) -> Found:
    console.print(f"a release of {size.articles} articles, made where the cache has none ...")
    prepared = prepare(size.articles)
    manifest = prepared.manifest
    ours = prepared.linked(directory / "store")
    contenders = {OURS: (ours, {}), PLAIN_CHAIN: (prepared, PLAIN_SETTINGS)}
    with ExitStack() as cleanup:
        stacks = cleanup.enter_context(running_stacks(directory, contenders))
        serving = {
            name: median(
                seconds_to_serving(stacks[OURS], name, directory / "started" / name / str(number))
                for number in range(size.starts)
            )
            for name in ("recommender", "faiss-server")
        }
        beside = cleanup.enter_context(_Beside(prepared, stacks[OURS], size.seconds / 2))
        plans = _plans(prepared, size)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("pairs", total=size.rounds * len(plans) * len(stacks))
            pairs = measure_pairs(
                stacks, plans, size.rounds,
                between=lambda: progress.advance(task), each_round=beside.measure,
            )  # fmt: skip
            task = progress.add_task("highest rate", total=None)
            rungs = climb(
                stacks, replace(plans[0], warmup_seconds=_PIECE_WARMUP_SECONDS), _BUDGET_MS,
                size.ladder,
                between=lambda: progress.advance(task),
            )  # fmt: skip
            plan = replace(plans[0], rate=size.tails_rate, clients=None, seconds=size.tails_seconds)
            task = progress.add_task("slowest answers", total=3 * size.tails_rounds)
            tails = measure_tails(
                stacks[OURS], ours.store, plan, size.tails_rounds,
                between=lambda: progress.advance(task),
            )  # fmt: skip
    return Found(
        pairs, tails, beside.floor, beside.bare_search, beside.null_call, rungs,
        _BUDGET_MS,
        serving, prepared.index_bytes, manifest.index.recall_at_200,
        manifest.offline_metrics["recall_at_200_of_16_lists"], size.articles,
    )  # fmt: skip


def _plans(prepared: Prepared, size: Size) -> list[LoadPlan]:
    def plan(*, rate: float | None = None, clients: int | None = None) -> LoadPlan:
        return LoadPlan(
            "", prepared.users, size.seconds, size.warmup_seconds, _DEADLINE_SECONDS, seed=1,
            rate=rate, clients=clients,
        )  # fmt: skip

    return [plan(clients=1), *(plan(rate=rate) for rate in size.rates), plan(clients=_CLIENTS)]


class _Beside:
    """The floor and the yardsticks, measured once in each round."""

    def __init__(self, prepared: Prepared, stack: LocalStack, seconds: float) -> None:
        self._seconds = seconds
        self._cleanup = ExitStack()
        self._arguments: Sequence[str] = (
            str(prepared.store), str(RELEASE), stack.redis_url, str(len(prepared.users)),
        )  # fmt: skip
        self.floor: list[Latencies] = []
        self.bare_search: list[Latencies] = []
        self.null_call: list[Latencies] = []

    def __enter__(self) -> Self:
        run = Companion.running
        # As in the plain chain: the default engine.
        plain = {**os.environ, "GRPC_EXPERIMENTS": ""}
        try:
            self._floor = self._cleanup.enter_context(
                run("loadtest.bench.floor", self._arguments, dict(os.environ))
            )
            self._null = self._cleanup.enter_context(
                run("loadtest.bench.null_call", ("companion",), plain)
            )
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def measure(self) -> None:
        """Measure each of them once more."""
        floor = self._floor.measure(self._seconds)
        self.floor.append(floor["answer"])
        self.bare_search.append(floor["search"])
        self.null_call.append(self._null.measure(self._seconds)["call"])


if __name__ == "__main__":
    argparse.ArgumentParser("python -m loadtest.bench", description=__doc__).parse_args()
    sys.exit(main())
