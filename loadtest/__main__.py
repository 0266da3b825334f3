"""`python -m loadtest run --users N --rate 200,500`: asks a recommender, whatever it answers."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.errors import LoadTestError
from loadtest.find_max import MaxRateSearch, keeps_budget
from loadtest.measurement import Measurement, Tick, measure
from loadtest.plan import LoadPlan, TlsPaths, read_users
from loadtest.report import label_of, report_measurements
from local_stack.stack import SERVER_NAMES, read_address
from reporting import print_report, write_report

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

_FIRST_RATE = 50.0

Target = Annotated[str, typer.Option(help="host:port of a recommender.")]
Users = Annotated[str, typer.Option(help="N for the user ids 1 to N, or a file of one per line.")]
Rates = Annotated[str, typer.Option(help="Requests/s, comma-separated; arrivals are random.")]
Clients = Annotated[
    str, typer.Option(help="Instead of rates: so many clients, each asks again once answered.")
]
Duration = Annotated[float, typer.Option(help="Seconds at each rate.", min=0.1)]
Warmup = Annotated[float, typer.Option(help="Seconds before, which do not count.", min=0)]
Processes = Annotated[int, typer.Option(help="Load processes to divide the rate between.", min=1)]
Stack = Annotated[
    Path | None,
    typer.Option(help="Folder of a stack on this machine (build/up/stack): measure its servers."),
]
FindMax = Annotated[
    bool, typer.Option("--find-max", help="Search the highest rate with p99 in the budget.")
]
Budget = Annotated[float, typer.Option(help="p99 in ms that --find-max holds.", min=0.1)]
Deadline = Annotated[float, typer.Option(help="Of each call, in ms.", min=1)]
Limit = Annotated[int, typer.Option(help="Articles asked for.", min=1, max=1000)]
Seed = Annotated[int, typer.Option(help="Of arrivals and users.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        help="CA of the recommender's certificate, PEM: by TLS.", exists=True, dir_okay=False
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(help="Certificate to show to it, PEM.", exists=True, dir_okay=False)
]
TlsKey = Annotated[Path | None, typer.Option(help="Its key, PEM.", exists=True, dir_okay=False)]
TlsName = Annotated[str | None, typer.Option(help="What its certificate is for, if not TARGET.")]
Directory = Annotated[Path, typer.Option(help="For report.json and report.html.")]


@app.callback()
def _commands() -> None:
    """Latency of a running stack."""


@app.command()
def run(  # noqa: PLR0913, PLR0917 - the options of a command line
    users: Users,
    target: Target = "127.0.0.1:50051",
    rate: Rates = "",
    clients: Clients = "",
    duration: Duration = 20.0,
    warmup: Warmup = 2.0,
    processes: Processes = 1,
    stack: Stack = None,
    find_max: FindMax = False,
    budget_ms: Budget = 10.0,
    deadline_ms: Deadline = 1000.0,
    limit: Limit = 200,
    seed: Seed = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    directory: Directory = Path("build/loadtest"),
) -> None:
    """Ask, print and write what came back; exit code 1 when nothing was answered."""
    base = LoadPlan(
        target, read_users(users), duration, warmup, deadline_ms / 1000, seed, limit=limit,
        tls=_tls(tls_ca, tls_cert, tls_key, tls_name),
    )  # fmt: skip
    plans = _plans(base, rate, clients)
    if not plans and not find_max:
        raise typer.BadParameter("give --rate, --clients or --find-max")
    asked = _Asked({} if stack is None else _pids(stack), processes)
    for plan in plans:
        asked.ask(plan)
    best = _highest_rate(base, asked, budget_ms) if find_max else None
    report = report_measurements(asked.measurements, max_rate=best, budget_ms=budget_ms)
    print_report(report)
    write_report(report, directory)
    print(f"report: {directory / 'report.html'}")
    if not any(one.answered for one in asked.measurements):
        raise LoadTestError(f"{target} answered nothing: {dict(asked.measurements[0].codes)}")


def _tls(ca: Path | None, cert: Path | None, key: Path | None, name: str | None) -> TlsPaths | None:
    if ca is None:
        if cert or key or name:
            raise typer.BadParameter("--tls-cert, --tls-key and --tls-name need --tls-ca")
        return None
    if (cert is None) != (key is None):
        raise typer.BadParameter("--tls-cert and --tls-key: one needs the other")
    return TlsPaths(
        str(ca), None if cert is None else str(cert), None if key is None else str(key), name
    )


class _Asked:
    """Measures one plan after another, with a progress bar for each."""

    def __init__(self, pids: Mapping[str, int], processes: int) -> None:
        self._pids = pids
        self._processes = processes
        self.measurements: list[Measurement] = []

    def ask(self, plan: LoadPlan) -> Measurement:
        with _progress(label_of(plan)) as tick:
            measured = measure(plan, processes=self._processes, pids=self._pids, tick=tick)
        latencies = measured.latencies
        print(
            f"{label_of(plan)}: {measured.answered} of {measured.requests} answered, "
            f"p50 {latencies.percentile_ms(50):.2f} ms, p99 {latencies.percentile_ms(99):.2f} ms",
            file=sys.stderr,
        )
        self.measurements.append(measured)
        return measured


@contextmanager
def _progress(label: str) -> Iterator[Tick]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _plans(base: LoadPlan, rates: str, clients: str) -> list[LoadPlan]:
    try:
        return [
            *(replace(base, rate=_positive(float(one))) for one in _parts(rates)),
            *(replace(base, clients=int(_positive(int(one)))) for one in _parts(clients)),
        ]
    except ValueError as error:
        raise typer.BadParameter(f"--rate and --clients take positive numbers: {error}") from error


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive(number: float) -> float:
    if not 0 < number < float("inf"):
        raise ValueError(f"{number:g} is none")
    return number


def _highest_rate(base: LoadPlan, asked: _Asked, budget_ms: float) -> float | None:
    search = MaxRateSearch(_FIRST_RATE)
    while (rate := search.next_rate) is not None:
        search.tell(kept=keeps_budget(asked.ask(replace(base, rate=rate)), budget_ms))
    return search.best


def _pids(stack: Path) -> dict[str, int]:
    try:
        return {name: read_address(stack, name).pid for name in SERVER_NAMES}
    except (OSError, ValueError, TypeError) as error:
        raise LoadTestError(f"--stack: {stack} holds no running stack: {error}") from error


def main() -> None:
    """Run the command line; what goes wrong becomes one line and the exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except LoadTestError as error:
        sys.exit(f"loadtest: {error}")


if __name__ == "__main__":
    main()
