"""`python -m loadtest.bench.scale`: one client's latency over the number of articles.

QUICK=1 takes two small catalogues and a moment each, which checks the machinery and not the
figures.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.progress import track

from loadtest.bench.comparison import measure_stack
from loadtest.bench.report import p50, p99
from loadtest.bench.stacks import Prepared, prepare, running_stacks
from loadtest.errors import LoadTestError
from loadtest.measurement import Measurement
from loadtest.plan import LoadPlan
from loadtest.report import summary_of
from local_stack.errors import StackError
from reporting import Figure, LineChart, Report, Section, Series, Table, print_report, write_report

_REPORT: Final = Path("build/bench-scale")
_FULL: Final = (100_000, 1_000_000, 4_000_000)
_QUICK: Final = (5_000, 20_000)
_DEADLINE_SECONDS: Final = 1.0

Measured = Mapping[int, Sequence[Measurement]]


def main() -> int:
    """Measure, print, write the report; answer the exit code."""
    quick = bool(os.environ.get("QUICK"))
    console = Console()
    try:
        prepared = {}
        for articles in _QUICK if quick else _FULL:
            console.print(f"a release of {articles} articles, made where the cache has none ...")
            prepared[articles] = prepare(articles)
        measured = _measure(prepared, rounds=1 if quick else 7, seconds=0.5 if quick else 4.0)
    except (LoadTestError, StackError) as error:
        sys.exit(f"bench-scale: {error}")
    report = _report(prepared, measured, quick=quick)
    print_report(report, console)
    write_report(report, _REPORT)
    console.print(f"report: {_REPORT / 'report.html'}")
    return 0 if report.holds else 1


def _measure(prepared: Mapping[int, Prepared], *, rounds: int, seconds: float) -> Measured:
    by_name = {str(articles): articles for articles in prepared}
    measured: dict[int, list[Measurement]] = {articles: [] for articles in prepared}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as directory:
        no_settings: dict[str, str] = {}
        wanted = {name: (prepared[articles], no_settings) for name, articles in by_name.items()}
        with running_stacks(Path(directory), wanted) as stacks:
            for number in track(range(rounds), "rounds", transient=True):
                for name, stack in stacks.items():
                    users = prepared[by_name[name]].users
                    plan = LoadPlan(
                        "", users, seconds, seconds / 8, _DEADLINE_SECONDS, number, clients=1
                    )
                    measured[by_name[name]].append(measure_stack(stack, plan))
    return measured


def _report(prepared: Mapping[int, Prepared], measured: Measured, *, quick: bool) -> Report:
    least, most = min(measured), max(measured)
    rounds = zip(measured[most], measured[least], strict=True)
    ratio = median(p50(large) / p50(small) for large, small in rounds)
    figures = [
        Figure(
            f"p50 of {most} articles / {least}", ratio,
            must=None if quick else "<= 1.6", aim=None if quick else "<= 1.3",
        ),
        *(
            Figure(
                f"recall@200 of {articles} articles", one.manifest.index.recall_at_200,
                must=None if quick else ">= 0.99",
            )
            for articles, one in prepared.items()
        ),
    ]  # fmt: skip
    return Report(
        target="bench-scale",
        figures=tuple(figures),
        details={
            str(articles): [summary_of(one) for one in each] for articles, each in measured.items()
        },
        sections=_sections(prepared, measured),
    )


def _sections(prepared: Mapping[int, Prepared], measured: Measured) -> tuple[Section, ...]:
    medians = {
        articles: (median(map(p50, each)), median(map(p99, each)))
        for articles, each in measured.items()
    }
    series = tuple(
        Series(name, tuple((float(articles), both[place]) for articles, both in medians.items()))
        for place, name in enumerate(("p50", "p99"))
    )
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (articles, *medians[articles], index.lists, index.nprobe, index.recall_at_200)
        for articles, index in ((each, prepared[each].manifest.index) for each in medians)
    )
    headings = ("articles", "p50 ms", "p99 ms", "lists", "nprobe", "recall@200")
    return (
        Section(
            "Latency over articles",
            "One client, medians over all rounds.",
            (LineChart("articles", "ms", series), Table(headings, rows)),
        ),
    )


if __name__ == "__main__":
    argparse.ArgumentParser("python -m loadtest.bench.scale", description=__doc__).parse_args()
    sys.exit(main())
