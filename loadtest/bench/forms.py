"""The forms of a faiss server: one process with a thread of search for each core, or a process for
each core.

Processes do not share a port here: each has some of the clients, which is the most that the kernel
could do for them. One server after the other is asked, the other form halted meanwhile.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from loadtest.bench.catalogue import RELEASE
from loadtest.bench.stacks import Prepared
from loadtest.peers.client import Site
from loadtest.peers.environments import OWN
from loadtest.peers.inputs import Inputs
from loadtest.peers.measuring import Plan, Turn, take_turn
from loadtest.peers.servers import Server, running_own_server

__all__ = ["ONE_PROCESS", "PROCESSES", "Forms", "measure_forms"]

ONE_PROCESS: Final = "one process"
PROCESSES: Final = "a process for each core"
_CLIENT: Final = "loadtest.peers.clients.faiss_server"
_WARMUP_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Forms:
    """Turns of both forms, one with each number of clients in each round."""

    cores: int
    by_form: Mapping[str, Sequence[Sequence[Turn]]]

    def of(self, form: str, clients: int) -> list[Turn]:
        """Answer the turns with so many clients, by round."""
        return [turn for turns in self.by_form[form] for turn in turns if turn.clients == clients]

    def ratio(self, figure: Callable[[Turn], float], clients: int) -> float:
        """Answer processes over one process: the median of the rounds' ratios."""
        rounds = zip(self.of(PROCESSES, clients), self.of(ONE_PROCESS, clients), strict=True)
        return median(figure(many) / figure(one) for many, one in rounds)


def measure_forms(
    prepared: Prepared, inputs: Inputs, directory: Path, rounds: int, seconds: float
) -> Forms:
    """Run both forms side by side and ask them in turns; raises LoadTestError or StackError."""
    cores = len(os.sched_getaffinity(0))
    counts = {ONE_PROCESS: (1, cores), PROCESSES: (cores, 1)}
    nprobe = prepared.manifest.index.nprobe
    found: dict[str, list[list[Turn]]] = {form: [] for form in counts}
    with ExitStack() as cleanup:
        servers = {
            form: [
                cleanup.enter_context(
                    running_own_server(
                        directory / f"{processes}-{number}", prepared.store.resolve(),
                        {"FAISS_SERVER_SEARCH_THREADS": str(threads)},
                    )
                )
                for number in range(processes)
            ]
            for form, (processes, threads) in counts.items()
        }  # fmt: skip
        for server in (each for of_form in servers.values() for each in of_form):
            server.halt()
        for number in range(rounds):
            plan = Plan(inputs.queries.resolve(), seconds, _WARMUP_SECONDS, nprobe, number)
            # Forth and back, so that whatever gets slower or faster meets both alike.
            for form in list(counts)[:: 1 if number % 2 == 0 else -1]:
                found[form].append(_turns(form, servers[form], directory, plan))
    return Forms(cores, found)


def _turns(form: str, servers: Sequence[Server], directory: Path, plan: Plan) -> list[Turn]:
    settings = {"release": RELEASE, "nprobe": plan.effort}
    sites = [Site(_CLIENT, OWN, directory, server.port, settings) for server in servers]
    for server in servers:
        server.resume()
    try:
        return take_turn(form, sites, [server.process.pid for server in servers], plan)
    finally:
        for server in servers:
            server.halt()
