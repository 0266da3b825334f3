"""`python -m loadtest.peers`: the faiss server beside other systems, in one interleaved run.

QUICK=1 takes this project's server and the bare library alone, on a small catalogue and for a
moment, which checks the machinery and not the figures. `ARTICLES` overrides the number of
articles, and `PEERS` names those that take part, separated by commas.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from loadtest.bench.catalogue import RELEASE
from loadtest.bench.stacks import CACHE, Prepared, prepare
from loadtest.errors import LoadTestError
from loadtest.peers.inputs import prepare_inputs
from loadtest.peers.measuring import MANY
from loadtest.peers.preparing import Workplace
from loadtest.peers.report import peers_report, side_by_side
from loadtest.peers.rounds import Compared, Size, compare
from loadtest.peers.systems import FAISS, OURS, System, all_systems
from local_stack.errors import StackError
from releases.layout import INDEX_FILE, Part, part_path
from reporting import Table, print_report, write_report

_REPORT: Final = Path("build/bench-peers")
_PRINTED: Final = (0, 2, 3, 4, 6, 9, 11)
"""Columns of the table in the report."""
_FULL: Final = Size(rounds=5, seconds=5.0, warmup_seconds=1.0)
_QUICK: Final = Size(rounds=1, seconds=0.5, warmup_seconds=0.1)
_ARTICLES: Final = 1_000_000
_QUICK_ARTICLES: Final = 20_000


def main() -> int:
    """Measure, print, write the report; answer the exit code."""
    quick = bool(os.environ.get("QUICK"))
    articles = int(os.environ.get("ARTICLES") or (_QUICK_ARTICLES if quick else _ARTICLES))
    console = Console()
    # As Ctrl-C does: end the servers in good order, the halted ones too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        compared = _compared(articles, console, quick=quick)
    except (LoadTestError, StackError) as error:
        sys.exit(f"bench-peers: {error}")
    report = peers_report(compared, articles, quick=quick)
    print_report(report, console)
    _print_table(side_by_side(compared), console)
    for name, reason in compared.absent.items():
        console.print(f"not measured: {name}: {reason}", markup=False)
    write_report(report, _REPORT)
    console.print(f"report: {_REPORT / 'report.html'}")
    return 0 if report.holds and OURS not in compared.absent else 1


def _compared(articles: int, console: Console, *, quick: bool) -> Compared:
    cache = CACHE / "peers"
    cache.mkdir(parents=True, exist_ok=True)
    console.print(f"a release of {articles} articles, made where the cache has none ...")
    prepared = prepare(articles)
    inputs = prepare_inputs(cache, articles)
    with (
        tempfile.TemporaryDirectory(prefix="bench-peers-", dir=cache) as scratch,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        workplace = Workplace(cache, inputs, prepared.store.resolve(), Path(scratch))
        systems = _wanted(_systems(prepared), quick=quick)
        return compare(systems, workplace, _QUICK if quick else _FULL, progress)


def _print_table(table: Table, console: Console) -> None:
    """Print those columns that a terminal has room for."""
    printed = RichTable(title=f"1 client, and queries/s of {MANY}", title_justify="left")
    for place in _PRINTED:
        printed.add_column(table.headings[place], no_wrap=place == 0)
    for row in table.rows:
        cells = (row[place] for place in _PRINTED)
        printed.add_row(
            *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    console.print(printed)


def _systems(prepared: Prepared) -> list[System]:
    index = prepared.store / part_path(Part.INDEX, RELEASE) / INDEX_FILE
    return all_systems(prepared.manifest, str(index.resolve()))


def _wanted(systems: list[System], *, quick: bool) -> list[System]:
    named = {name.strip() for name in os.environ.get("PEERS", "").split(",") if name.strip()}
    if unknown := named - {system.name for system in systems}:
        known = ", ".join(system.name for system in systems)
        raise LoadTestError(f"PEERS: there is no {', '.join(sorted(unknown))}; there are {known}")
    own = {OURS, FAISS}
    if quick:
        named = own
    return [system for system in systems if not named or system.name in named | own]


if __name__ == "__main__":
    argparse.ArgumentParser("python -m loadtest.peers", description=__doc__).parse_args()
    sys.exit(main())
