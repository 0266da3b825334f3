"""`python -m tests.chaos [--only NAME ...]`: breaks the stack in every way and counts the answers.

QUICK=1 plays a few scenarios for a moment each, which checks the machinery and not the figures.
"""

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()

from rich.console import Console

from reporting import print_report, write_report
from tests.chaos.cluster import Cluster
from tests.chaos.machine import Pace
from tests.chaos.outcome import Outcome
from tests.chaos.overload import Overload, measure_overload
from tests.chaos.report import chaos_report
from tests.chaos.rotated import FIRST_RELEASE, Variant, prepare_releases
from tests.chaos.runner import LoadMaker, play, record_histories, sustainable_rate
from tests.chaos.scenarios.corrupt import CORRUPT_RELEASES
from tests.chaos.scenarios.faults import FAULTS
from tests.chaos.scenarios.swaps import SWAPS
from tests.chaos.stage import Rule, Scenario, World
from tests.chaos.standstills import Standstills
from tests.chaos.verify import AnswerCheck
from tests.support.program import run_program

_BUILD = Path("build")
_CACHE = _BUILD / "cache"
_TRIES = 3
_FIRST_TWO: tuple[Variant, ...] = ("sound", "sound")
_REQUESTS = 100_000
_RATES = (20.0, 250.0)
_QUICK_RATE = 60.0
_OVERLOAD = "overload"
SCENARIOS = (*SWAPS, *CORRUPT_RELEASES, *FAULTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios asked for; answer the exit code."""
    options = _options(arguments)
    quick = bool(os.environ.get("QUICK"))
    chosen = _chosen(options.only, quick=quick)
    console = Console()
    complete = not quick and not options.only
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        suite = _Suite(Path(directory), chosen, console, quick=quick, rate=options.rate)
        try:
            outcomes = suite.run(
                fill_up=complete, overload=_OVERLOAD in options.only or not options.only
            )
        finally:
            _keep_evidence(Path(directory), options.directory)
    report = chaos_report(
        outcomes, suite.spoilt, suite.rate, suite.overload, complete=complete, quick=quick
    )
    print_report(report, console)
    write_report(report, options.directory)
    console.print(f"report: {options.directory / 'report.html'}")
    return 0 if report.holds else 1


class _Suite:
    """One cluster, and all scenarios on it."""

    def __init__(
        self,
        directory: Path,
        scenarios: Sequence[Scenario],
        console: Console,
        *,
        quick: bool,
        rate: float | None,
    ) -> None:
        self._directory = directory
        self._scenarios = scenarios
        self._console = console
        self._quick = quick
        self.rate = rate or (_QUICK_RATE if quick else 0.0)
        self.overload: Overload | None = None
        self.spoilt: list[Outcome] = []
        """Tries that the machine stood still in, each played again afterwards."""

    def run(self, *, fill_up: bool, overload: bool) -> list[Outcome]:
        """Start the cluster, play everything, stop it."""
        wanted = _numbered(self._scenarios)
        self._console.print(f"{len(wanted)} releases, made where the cache has none ...")
        releases = prepare_releases(_CACHE, wanted)
        store = self._directory / "store"
        with (
            Standstills.watched(self._directory / "standstills.txt") as standstills,
            Cluster(self._directory / "cluster", store) as cluster,
        ):
            world = World(cluster, releases, store, self._quick)
            for number, _ in wanted[: len(_FIRST_TWO)]:
                world.publish(number)
            cluster.start()
            record_histories(cluster.recommenders[0].address, releases.catalogue)
            cluster.wait_full_service()
            load = self._calibrated(cluster)
            pace = Pace()
            numbers = itertools.count(wanted[len(_FIRST_TWO) - 1][0] + 1)
            check = AnswerCheck(releases.catalogue)

            def played(scenario: Scenario) -> Outcome:
                own = [(next(numbers), need) for need in scenario.needs]
                prepare_releases(_CACHE, own)  # those of a second try
                # A third of what is sustained now, and not of what was when the machine was faster.
                load.rate = self.rate * min(1.0, pace.now())
                releases = [number for number, _ in own]
                return self._shown(play(scenario, world, releases, load, check, standstills))

            outcomes = [self._settled(scenario, played) for scenario in self._scenarios]
            if fill_up and (missing := _REQUESTS - sum(one.requests for one in outcomes)) > 0:
                rate = self.rate * min(1.0, pace.now())
                outcomes.append(played(_steady_for(missing / rate * 1.02)))
            if overload:
                cluster.use_links(proxied=False)
                cluster.wait_full_service()
                self.overload = measure_overload(cluster, load, quick=self._quick)
                self._console.print(self.overload)
            return outcomes

    def _settled(self, scenario: Scenario, played: Callable[[Scenario], Outcome]) -> Outcome:
        """Play it until the machine does not stand still in it, but not for ever."""
        for _ in range(_TRIES - 1):
            outcome = played(scenario)
            if not outcome.spoilt:
                return outcome
            self.spoilt.append(outcome)
        return played(scenario)

    def _calibrated(self, cluster: Cluster) -> LoadMaker:
        addresses = [part.address for part in cluster.recommenders]
        load = LoadMaker(self._directory, addresses, self.rate)
        if not self.rate:
            most = sustainable_rate(load)
            load.rate = self.rate = min(max(most / 3, _RATES[0]), _RATES[1])
            self._console.print(f"sustainable: {most:.0f} requests/s")
        self._console.print(f"load: {self.rate:.0f} requests/s")
        return load

    def _shown(self, outcome: Outcome) -> Outcome:
        holds = "[green]holds[/green]" if outcome.holds else "[bold red]fails[/bold red]"
        if outcome.spoilt:
            holds = f"[yellow]the machine stood still {outcome.standstills_ms} ms[/yellow]"
        self._console.print(
            f"{outcome.name:28} {holds}  {outcome.requests:6} requests, "
            f"{outcome.failed} failed, {outcome.degraded} degraded, {outcome.wrong} wrong, "
            f"{outcome.handed} lost with it, p99 {outcome.p99_ms} ms, "
            f"full service {outcome.full_service_seconds} s {outcome.errors or ''}"
        )
        for problem in (*outcome.problems, *outcome.crashes):
            self._console.print(f"    {problem}", style="red", highlight=False, markup=False)
        return outcome


def _numbered(scenarios: Sequence[Scenario]) -> list[tuple[int, Variant]]:
    """Give every release that is needed its id, in the order in which they are published."""
    variants = [*_FIRST_TWO, *(need for scenario in scenarios for need in scenario.needs)]
    return [(FIRST_RELEASE + 1 + place, variant) for place, variant in enumerate(variants)]


def _steady_for(seconds: float) -> Scenario:
    return Scenario("steady, for the rest", Rule.UNDISTURBED, lambda _: time.sleep(seconds))


def _chosen(only: Sequence[str], *, quick: bool) -> list[Scenario]:
    if only:
        return [scenario for scenario in SCENARIOS if scenario.name in only]
    return [scenario for scenario in SCENARIOS if scenario.quick or not quick]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [*(scenario.name for scenario in SCENARIOS), _OVERLOAD]
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="NAME")
    parser.add_argument("--rate", type=float, help="requests/s; default: a third of what works")
    parser.add_argument("--directory", type=Path, default=_BUILD / "chaos", help="for the report")
    return parser.parse_args(arguments)


def _keep_evidence(directory: Path, report: Path) -> None:
    """Keep what the servers logged and what became of each request."""
    kept = report / "evidence"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in [*directory.glob("cluster/logs/*.log"), *directory.glob("*.jsonl")]:
        shutil.copy(path, kept)


if __name__ == "__main__":
    run_program(main)
