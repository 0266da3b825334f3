"""Turns: one system asked in a closed loop by one client and by many, while all others are halted.

Every system is asked by as many client processes, each with as many threads, and a thread has a
connection of its own. The servers' CPU counts and the clients' does not, though both share the
machine.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from loadtest.errors import LoadTestError
from loadtest.latencies import Latencies
from loadtest.peers.client import Client, Loaded, Site, running_client
from loadtest.usage import family_of

__all__ = ["MANY", "Plan", "Turn", "take_turn"]

MANY: Final = 16
_PROCESSES: Final = 4
_HEAD_START_SECONDS: Final = 0.2
_MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """How a system is asked."""

    queries: Path
    seconds: float
    warmup_seconds: float
    effort: int
    seed: int


@dataclass(frozen=True)
class Turn:
    """What one system did with so many clients; the in-process ones are their own server."""

    clients: int
    latencies: Latencies
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    memory_mib: float
    """Proportional set size of all of the server's processes, afterwards."""

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.latencies.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """The server's CPU microseconds for each answer."""
        return 1e6 * self.server_cpu_seconds / self.latencies.count

    @property
    def client_cpu_us(self) -> float:
        """The clients' CPU microseconds for each answer."""
        return 1e6 * self.client_cpu_seconds / self.latencies.count


def take_turn(
    name: str, sites: Sequence[Site], server_pids: Sequence[int], plan: Plan
) -> list[Turn]:
    """Ask by one client, and where there is a server by many. Raises LoadTestError.

    Where several processes serve, each has a site of its own, and the clients are divided.
    """
    numbers = (1, MANY) if server_pids else (1,)
    with ExitStack() as cleanup:
        clients = [
            cleanup.enter_context(running_client(name, sites[place % len(sites)]))
            for place in range(min(_PROCESSES, max(numbers)))
        ]
        pids = server_pids or [clients[0].pid]
        return [_measured(clients, number, pids, plan) for number in numbers]


def _measured(clients: Sequence[Client], number: int, pids: Sequence[int], plan: Plan) -> Turn:
    asking = clients[: min(len(clients), number)]
    for client in asking:
        client.begin_connecting(number // len(asking), plan.effort, plan.queries)
    for client in asking:
        client.answer()
    start = time.monotonic() + _HEAD_START_SECONDS
    for place, client in enumerate(asking):
        client.tell({
            "do": "load", "queries": str(plan.queries), "seed": plan.seed * _PROCESSES + place,
            "start": start, "warmup": plan.warmup_seconds, "seconds": plan.seconds,
        })  # fmt: skip
    time.sleep(max(0.0, start + plan.warmup_seconds - time.monotonic()))
    before = sum(map(cpu_seconds, pids))
    time.sleep(max(0.0, start + plan.warmup_seconds + plan.seconds - time.monotonic()))
    used = sum(map(cpu_seconds, pids)) - before
    memory = sum(map(memory_mib, pids))
    return _turn(number, [client.loaded() for client in asking], plan, used, memory)


def _turn(
    clients: int, loaded: Sequence[Loaded], plan: Plan, cpu_seconds: float, memory_mib: float
) -> Turn:
    latencies = Latencies()
    for one in loaded:
        for seconds in one.seconds.tolist():
            latencies.record(seconds)
    if not latencies.count:
        raise LoadTestError(f"no question was answered in {plan.seconds:g} s; measure for longer")
    used_by_clients = sum(one.cpu_seconds for one in loaded)
    return Turn(clients, latencies, plan.seconds, cpu_seconds, used_by_clients, memory_mib)


def cpu_seconds(pid: int) -> float:
    """Answer the CPU time of a process, all below it, and those of them that have ended."""
    total = 0.0
    for process in family_of("the server", pid):
        with suppress(psutil.NoSuchProcess):  # it ends meanwhile, and counts with the one above it
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib(pid: int) -> float:
    """Answer the proportional set size of a process and all below it: what they share counts once.

    Those that end meanwhile count nothing.
    """
    total = 0
    for process in family_of("the server", pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / _MIB
