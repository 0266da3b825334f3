"""`python -m tests.fuzz`: 100,000 malformed and extreme requests to each RPC, over the wire.

Only codes that the contracts name may come back, no server may end, and memory stays flat.
QUICK=1 sends a few hundred to each, which checks the machinery and finds what is easily found.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()

import psutil
from rich.console import Console
from rich.progress import Progress

from local_stack.stack import LocalStack
from releases.publish import publish
from releases.store import ReleaseStore
from reporting import Figure, Report, Section, Table, print_report, write_report
from tests.chaos.rotated import FIRST_RELEASE, prepare_releases
from tests.fuzz.messages import RequestMaker
from tests.fuzz.sending import Sender, Tally
from tests.fuzz.targets import Target, targets_of
from tests.support.program import run_program

_BUILD = Path("build")
_RELEASE = FIRST_RELEASE + 1
_SERVERS = ("recommender", "faiss-server", "model-server")
_REQUESTS = 100_000
_QUICK_REQUESTS = 400
_ROUNDS = 20
_MOST_GROWTH = 1.1
_MOST_SHED = 0.01
_QUIET = {
    f"{prefix}_LOG_LEVEL": "ERROR" for prefix in ("RECOMMENDER", "FAISS_SERVER", "TF_SERVING")
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz everything; answer the exit code."""
    options = _options(arguments)
    quick = bool(os.environ.get("QUICK"))
    count = options.requests or (_QUICK_REQUESTS if quick else _REQUESTS)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        outcome = _Run(Path(directory), count, options.seed, console).run()
    report = _report(outcome, complete=count >= _REQUESTS)
    print_report(report, console)
    write_report(report, options.directory)
    console.print(f"report: {options.directory / 'report.html'}")
    return 0 if report.holds else 1


class _Run:
    """A stack of its own, and all RPCs of it."""

    def __init__(self, directory: Path, count: int, seed: int, console: Console) -> None:
        self._directory = directory
        self._count = count
        self._seed = seed
        self._console = console
        self.tallies: dict[Target, Tally] = {}
        self.memory: dict[str, list[float]] = {server: [] for server in _SERVERS}
        """MiB in memory of each server after each round."""
        self.ended: list[str] = []
        self.answers_well = False

    def run(self) -> "_Run":
        """Start the stack, send everything, stop it."""
        releases = prepare_releases(_BUILD / "cache", [(_RELEASE, "sound")])
        store = self._directory / "store"
        manifest = releases.manifest(_RELEASE)
        publish(ReleaseStore(str(store)), releases.staging("sound"), manifest)
        targets, vocabulary = targets_of(releases.catalogue, _RELEASE)
        makers = {
            target: RequestMaker(target.request, target.valid, vocabulary, self._seed)
            for target in targets
        }
        self.tallies = {target: Tally() for target in targets}
        with LocalStack(self._directory / "stack", str(store), settings=_QUIET) as stack:
            stack.wait_until_serving()
            asyncio.run(self._send(stack, makers))
            self.ended = [
                f"{name} ended with {process.returncode()}: {process.last_words()}"
                for name, process in stack.processes.items()
                if process.returncode() is not None
            ]
        return self

    async def _send(self, stack: LocalStack, makers: Mapping[Target, RequestMaker]) -> None:
        addresses = {server: stack.addresses[server].target for server in _SERVERS}
        async with Sender(addresses, self._seed) as sender:
            with Progress(console=self._console, transient=True) as progress:
                task = progress.add_task("requests", total=self._count * len(makers))
                for number in range(_ROUNDS):
                    for target, maker in makers.items():
                        share = _share(self._count, number)
                        await sender.send(target, maker, share, self.tallies[target])
                        progress.advance(task, share)
                    self._weigh(stack)
            self.answers_well = await sender.answers_well(list(makers))

    def _weigh(self, stack: LocalStack) -> None:
        for server in _SERVERS:
            process = psutil.Process(stack.processes[server].pid)
            self.memory[server].append(process.memory_info().rss / 2**20)

    def growth(self, server: str) -> float:
        """Compare the last quarter's most with the first quarter's: warm-up is over by then."""
        quarter = _ROUNDS // 4
        weights = self.memory[server]
        return round(max(weights[-quarter:]) / max(weights[:quarter]), 3)


def _share(count: int, number: int) -> int:
    """Divide `count` over the rounds without losing any."""
    return count * (number + 1) // _ROUNDS - count * number // _ROUNDS


def _report(run: _Run, *, complete: bool) -> Report:
    least = min(tally.read for tally in run.tallies.values())
    undocumented = sum(tally.undocumented for tally in run.tallies.values())
    figures = [
        Figure("requests_to_each_rpc", least, "", f">= {_REQUESTS}" if complete else None),
        Figure("rpcs", len(run.tallies), ""),
        Figure("undocumented_codes", undocumented, "", "== 0"),
        Figure("most_shed_share", _most_shed(run), "", f"<= {_MOST_SHED}"),
        Figure("servers_ended", len(run.ended), "", "== 0"),
        Figure("answers_well_afterwards", int(run.answers_well), "", "== 1"),
        *(
            Figure(
                f"memory_growth_{server}",
                run.growth(server),
                "",
                f"<= {_MOST_GROWTH}" if complete else None,
            )
            for server in _SERVERS
        ),
    ]
    details = {
        "codes": {target.name: dict(tally.codes) for target, tally in run.tallies.items()},
        "memory_mib": run.memory,
        "ended": run.ended,
        "examples": [text for tally in run.tallies.values() for text in tally.examples],
    }
    return Report("fuzz", tuple(figures), details, (_codes_section(run), _examples_section(run)))


def _most_shed(run: _Run) -> float:
    """The largest share of an RPC's requests that were refused unread: too large, or for load."""
    return max(round(tally.shed / tally.sent, 4) for tally in run.tallies.values())


def _codes_section(run: _Run) -> Section:
    rows = tuple(
        (
            target.name,
            tally.sent,
            ", ".join(f"{code} {count}" for code, count in sorted(tally.codes.items())),
        )
        for target, tally in run.tallies.items()
    )
    return Section("Codes", "", (Table(("RPC", "requests", "answered"), rows),))


def _examples_section(run: _Run) -> Section:
    rows = tuple((text,) for tally in run.tallies.values() for text in tally.examples)
    text = "" if rows else "None."
    return Section("Undocumented", text, (Table(("RPC, code, message, request in hex",), rows),))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, help="to each RPC; default 100,000")
    parser.add_argument("--directory", type=Path, default=_BUILD / "fuzz", help="for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_program(main)
