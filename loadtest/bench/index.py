"""`python -m loadtest.bench.index`: searches in process, with exclusions and filters, at 1 and 10
million articles; and a server of one process beside several.

QUICK=1 takes some thousand articles, which checks the machinery and not the figures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

os.environ["OMP_NUM_THREADS"] = "1"  # as servers have it

import numpy as np
import psutil
from rich.console import Console

from loadtest.bench.forms import ONE_PROCESS, PROCESSES, Forms, measure_forms
from loadtest.bench.indexes import (
    BenchIndex,
    Catalogued,
    attributes_of,
    catalogued,
    index_place,
    opened,
)
from loadtest.bench.searches import (
    BARE,
    DRAWN,
    NONE,
    Exclusions,
    Filtered,
    Times,
    fewest_lists,
    measure_exclusions,
    measure_filters,
    times_of,
)
from loadtest.bench.stacks import prepare
from loadtest.peers.inputs import prepare_inputs
from loadtest.peers.measuring import MANY, Turn
from reporting import Figure, LineChart, Report, Section, Series, Table, print_report, write_report

_REPORT: Final = Path("build/bench-index")
_CACHE: Final = Path("build/cache")
_DIMENSION: Final = 64
_MIB: Final = 1 << 20
_RECALL: Final = 0.98
_ENOUGH: Final = "fewest lists with the recall"
_FEW, _MANY = "50 excluded", "1000 excluded"


@dataclass(frozen=True)
class _Plan:
    articles: int
    compressed_articles: int
    compressed_spec: str
    rounds: int
    filter_users: int
    forms_seconds: float


_FULL: Final = _Plan(1_000_000, 10_000_000, "IVF12649,PQ64x4fsr,Refine(SQfp16)", 5, 200, 4.0)
_QUICK: Final = _Plan(20_000, 30_000, "IVF256(IVF16,Flat),PQ64x4fsr,Refine(SQfp16)", 1, 20, 0.5)


@dataclass(frozen=True)
class _Compressed:
    bench: BenchIndex
    times: Times
    enough: tuple[int, float]
    """The fewest lists with the recall that must be, and the recall."""
    resident_bytes: int
    articles: int

    @property
    def vector_bytes(self) -> int:
        """Of the vectors as they came, float32."""
        return self.articles * _DIMENSION * 4


def main() -> int:
    """Measure, print, write the report; answer the exit code."""
    quick = bool(os.environ.get("QUICK"))
    plan = _QUICK if quick else _FULL
    console = Console()
    flat = _made(console, plan.articles, "auto", 0.99)
    compressed = _made(console, plan.compressed_articles, plan.compressed_spec, _RECALL)
    console.print("one query at a time, in one thread ...")
    found = _measure_compressed(*compressed, plan)  # first: its memory is what comes on top
    catalogue, place = flat
    bench = opened(place, attributes_of(catalogue))
    exclusions = measure_exclusions(bench, catalogue, (50, 1000), plan.rounds)
    filters = measure_filters(bench, catalogue, plan.filter_users)
    console.print("one process and several, over gRPC ...")
    forms = _measure_forms(plan)
    report = _report(bench, exclusions, filters, found, forms, quick=quick)
    print_report(report, console)
    write_report(report, _REPORT)
    console.print(f"report: {_REPORT / 'report.html'}")
    return 0 if report.holds else 1


def _made(console: Console, articles: int, spec: str, recall: float) -> tuple[Catalogued, Path]:
    console.print(f"{articles} articles, {spec}: made where the cache has none ...")
    command = [sys.executable, "-m", "loadtest.bench.indexes", str(_CACHE)]
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    subprocess.run(
        [*command, str(articles), spec, str(recall)], env=os.environ | threads, check=True
    )
    catalogue = catalogued(_CACHE, articles)
    return catalogue, index_place(catalogue, spec)


def _measure_compressed(catalogue: Catalogued, place: Path, plan: _Plan) -> _Compressed:
    process = psutil.Process()
    before = process.memory_info().rss
    bench = opened(place, {})
    resident = process.memory_info().rss - before
    users, viewed = catalogue.asking, catalogue.viewed
    enough = fewest_lists(bench, catalogue, _RECALL)
    times = times_of(
        {
            NONE: lambda user: bench.ask(users[user]),
            _ENOUGH: lambda user: bench.ask(users[user], nprobe=enough[0]),
            _FEW: lambda user: bench.ask(users[user], [viewed[user]]),
            BARE: lambda user: bench.ask_bare(users[user]),
        },
        len(users),
        plan.rounds,
    )
    return _Compressed(bench, times, enough, resident, plan.compressed_articles)


def _measure_forms(plan: _Plan) -> Forms:
    peers = _CACHE / "peers"
    peers.mkdir(parents=True, exist_ok=True)
    prepared, inputs = prepare(plan.articles), prepare_inputs(peers, plan.articles)
    with tempfile.TemporaryDirectory(prefix="bench-forms-", dir=_CACHE) as directory:
        return measure_forms(
            prepared, inputs, Path(directory).resolve(), plan.rounds, plan.forms_seconds
        )


def _report(
    bench: BenchIndex,
    exclusions: Exclusions,
    filters: dict[str, Filtered],
    compressed: _Compressed,
    forms: Forms,
    *,
    quick: bool,
) -> Report:
    figures = [
        *_exclusion_figures(exclusions), *_filter_figures(filters),
        *_compressed_figures(compressed), *_forms_figures(forms),
    ]  # fmt: skip
    if quick:
        figures = [Figure(one.name, one.value, one.unit) for one in figures]
    return Report(
        target="bench-index",
        figures=tuple(figures),
        details={
            "indexes": [one.info.model_dump(mode="json") for one in (bench, compressed.bench)],
        },
        sections=(
            _times_section(bench, exclusions.times, exclusions.recalls),
            _filters_section(filters),
            _times_section(compressed.bench, compressed.times, {}),
            _forms_section(forms),
            *(_curve_section(one) for one in (bench, compressed.bench)),
        ),
    )


def _exclusion_figures(found: Exclusions) -> list[Figure]:
    times = found.times
    return [
        Figure("p50 with 50 excluded / none", times.ratio(_FEW, NONE), must="<= 1.1"),
        Figure("p50 with 1000 excluded / none", times.ratio(_MANY, NONE), must="<= 1.5"),
        Figure(
            "ids of all lists that differ from exact search, 50 and 1000 excluded",
            found.exact_differences, must="<= 0",
        ),
        Figure("recall@200 with 50 excluded", found.recalls[_FEW], aim=">= 0.99"),
        Figure("recall@200 with 1000 excluded", found.recalls[_MANY], aim=">= 0.99"),
        Figure("recall@200, none excluded", found.recalls[NONE], must=">= 0.99"),
        Figure("p50 of a search", times.percentile(NONE, 50), "ms"),
        Figure("p50 of a search / bare faiss call", times.ratio(NONE, BARE)),
    ]  # fmt: skip


def _filter_figures(found: dict[str, Filtered]) -> list[Figure]:
    figures = []
    for name, filtered in found.items():
        must = name in DRAWN
        p50, p99 = np.percentile(filtered.milliseconds, [50, 99])
        figures += [
            Figure(
                f"recall@200, filter of {name}", filtered.recall, must=">= 0.99" if must else None
            ),
            Figure(f"p50, filter of {name}", float(p50), "ms", must="<= 10" if must else None),
            Figure(f"p99, filter of {name}", float(p99), "ms", aim="<= 10"),
        ]
    full = all(one.all_there for one in found.values())
    return [
        *figures,
        Figure("pages as full as they can be", "yes" if full else "no", must="== yes"),
    ]


def _compressed_figures(found: _Compressed) -> list[Figure]:
    name = f"{found.articles} articles, {found.bench.info.type}"
    codes = found.bench.code_bytes
    return [
        Figure(f"{name}: recall@200", found.enough[1], must=f">= {_RECALL}"),
        Figure(f"{name}: lists for it", found.enough[0]),
        Figure(f"{name}: p50", found.times.percentile(_ENOUGH, 50), "ms", must="<= 2"),
        Figure(f"{name}: recall@200 as tuned", found.bench.info.recall_at_200),
        Figure(f"{name}: p50 as tuned", found.times.percentile(NONE, 50), "ms"),
        Figure(f"{name}: p50, 50 excluded", found.times.percentile(_FEW, 50), "ms"),
        Figure(f"{name}: p50 / bare faiss call", found.times.ratio(NONE, BARE)),
        Figure(
            f"{name}: file / bytes of its codes", found.bench.file_bytes / codes, must="<= 1.2"
        ),
        Figure(
            f"{name}: memory / bytes of its vectors", found.resident_bytes / found.vector_bytes,
            must="<= 1.2",
        ),
        Figure(f"{name}: memory / bytes of its codes", found.resident_bytes / codes),
        Figure(f"{name}: memory", found.resident_bytes / _MIB, "MiB"),
    ]  # fmt: skip


def _forms_figures(forms: Forms) -> list[Figure]:
    name = f"{forms.cores} processes / one of {forms.cores} threads"
    return [
        Figure(
            f"{name}: searches/s of {MANY} clients", forms.ratio(lambda turn: turn.per_second, MANY)
        ),
        Figure(f"{name}: CPU by search", forms.ratio(lambda turn: turn.cpu_us, MANY)),
        Figure(
            f"{name}: p50 of one client",
            forms.ratio(lambda turn: turn.latencies.percentile_ms(50), 1),
        ),
        Figure(f"{name}: memory (PSS)", forms.ratio(lambda turn: turn.memory_mib, MANY)),
    ]


def _forms_section(forms: Forms) -> Section:
    figures: tuple[Callable[[Turn], float], ...] = (
        lambda turn: turn.per_second,
        lambda turn: turn.latencies.percentile_ms(50),
        lambda turn: turn.latencies.percentile_ms(99),
        lambda turn: turn.cpu_us,
        lambda turn: turn.memory_mib,
    )
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (form, clients, *(median(map(figure, forms.of(form, clients))) for figure in figures))
        for form in (ONE_PROCESS, PROCESSES)
        for clients in (1, MANY)
    )
    headings = ("form", "clients", "searches/s", "p50 ms", "p99 ms", "CPU µs", "memory MiB")
    return Section(
        "One process or several",
        f"Over gRPC on {forms.cores} cores, which the clients share. Medians over the rounds; "
        "several processes have a port each.",
        (Table(headings, rows),),
    )


def _times_section(bench: BenchIndex, times: Times, recalls: Mapping[str, float]) -> Section:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (name, times.percentile(name, 50), times.percentile(name, 99), recalls.get(name, ""))
        for name in times.by_name
    )
    return Section(
        f"{len(bench.index)} articles, {bench.info.type}",
        f"{bench.info.nprobe} of {bench.info.lists} lists. Medians over the rounds, which took "
        "turns; each search by another user.",
        (Table(("what", "p50 ms", "p99 ms", "recall@200"), rows),),
    )


def _filters_section(found: dict[str, Filtered]) -> Section:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (name, one.matching, *np.percentile(one.milliseconds, [50, 99]).tolist(), one.recall)
        for name, one in found.items()
    )
    return Section(
        "Filters",
        "Shares are of articles drawn at random; places lie beside each other.",
        (Table(("filter", "matching", "p50 ms", "p99 ms", "recall@200"), rows),),
    )


def _curve_section(bench: BenchIndex) -> Section:
    curve = bench.info.curve
    points = tuple(sorted((point.p50_ms, point.recall_at_200) for point in curve))
    return Section(
        f"Recall and latency of {bench.info.type}",
        "When it was built.",
        (LineChart("p50 ms", "recall@200", (Series("recall", points),)),),
    )


if __name__ == "__main__":
    argparse.ArgumentParser("python -m loadtest.bench.index", description=__doc__).parse_args()
    sys.exit(main())
