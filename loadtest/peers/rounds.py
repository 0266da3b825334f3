"""The whole run: every system prepared, then measured in turns."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from rich.progress import Progress

from loadtest.errors import LoadTestError
from loadtest.peers.client import Site
from loadtest.peers.measuring import Plan, Turn, take_turn
from loadtest.peers.preparing import (
    Choice,
    Workplace,
    built_seconds,
    chosen,
    serving,
    site_of,
)
from loadtest.peers.servers import Server
from loadtest.peers.systems import System
from local_stack.errors import StackError

__all__ = ["Compared", "Contender", "Size", "compare"]

_REFUSED: Final = (LoadTestError, StackError, OSError)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    seconds: float
    warmup_seconds: float


@dataclass
class Contender:
    """A system that takes part, and what was found of it."""

    system: System
    site: Site
    build_seconds: float
    server: Server | None = None
    choice: Choice | None = None
    turns: list[list[Turn]] = field(default_factory=list)
    """Of each round: one client, and where there is a server many."""

    def of(self, clients: int) -> list[Turn]:
        """Answer the turns with so many clients, one of each round; none for those not asked so."""
        return [turn for turns in self.turns for turn in turns if turn.clients == clients]

    @property
    def memory_mib(self) -> float:
        """The median over the rounds, after the last question of each."""
        return median(turns[-1].memory_mib for turns in self.turns)


@dataclass
class Compared:
    """Everything that was found in one run."""

    contenders: list[Contender] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Systems that could not be had or failed, with the reason."""

    def named(self, name: str) -> Contender | None:
        """Answer a contender that takes part; None: it is absent."""
        return next((each for each in self.contenders if each.system.name == name), None)


def compare(
    systems: Sequence[System], workplace: Workplace, size: Size, progress: Progress
) -> Compared:
    """Prepare every system, run all servers side by side, and measure in turns.

    What fails is absent, with the reason, and does not stop the others.
    """
    compared = Compared()
    for system in systems:
        _prepare(compared, system, workplace, progress)
    for contender in list(compared.contenders):
        _tune(compared, contender, workplace, progress)
    with ExitStack() as servers:
        for contender in list(compared.contenders):
            if contender.system.bears_halting:
                _start(compared, contender, workplace, servers)
        task = progress.add_task("rounds", total=size.rounds * len(compared.contenders))
        for number in range(size.rounds):
            # Forth and back, so that whatever gets slower or faster meets all alike.
            for contender in compared.contenders[:: 1 if number % 2 == 0 else -1]:
                progress.update(task, description=f"round {number + 1}, {contender.system.name}")
                _measure(compared, contender, workplace, size, number)
                progress.advance(task)
    return compared


def _prepare(compared: Compared, system: System, workplace: Workplace, progress: Progress) -> None:
    task = progress.add_task(f"install {system.name}", total=None)
    try:
        site = site_of(system, workplace)
        progress.update(task, description=f"fill {system.name}", total=1.0)
        seconds = built_seconds(
            system, site, workplace, lambda share: progress.update(task, completed=share)
        )
        compared.contenders.append(Contender(system, site, seconds))
    except _REFUSED as error:
        compared.absent[system.name] = str(error)
    finally:
        progress.remove_task(task)


def _tune(
    compared: Compared, contender: Contender, workplace: Workplace, progress: Progress
) -> None:
    task = progress.add_task(f"tune {contender.system.name}, efforts tried", total=None)
    try:
        contender.choice = chosen(
            contender.system, contender.site, workplace, lambda: progress.advance(task)
        )
    except _REFUSED as error:
        _drop(compared, contender, error)
    finally:
        progress.remove_task(task)


def _start(
    compared: Compared, contender: Contender, workplace: Workplace, servers: ExitStack
) -> None:
    """Start its server, and halt it until its turn."""
    try:
        server = servers.enter_context(serving(contender.system, contender.site, workplace))
    except _REFUSED as error:
        _drop(compared, contender, error)
        return
    if server is not None:
        contender.server = server
        server.halt()


def _measure(
    compared: Compared, contender: Contender, workplace: Workplace, size: Size, number: int
) -> None:
    system, choice = contender.system, contender.choice
    assert choice is not None  # noqa: S101 - whoever could not be tuned is absent
    plan = Plan(
        workplace.inputs.queries.resolve(), size.seconds, size.warmup_seconds, choice.effort,
        number,
    )  # fmt: skip
    try:
        with _awake(contender, workplace) as server:
            if server is None:
                turns = take_turn(system.name, [contender.site], [], plan)
            else:
                site = contender.site.at(server.port)
                turns = take_turn(system.name, [site], [server.process.pid], plan)
        contender.turns.append(turns)
    except _REFUSED as error:
        _drop(compared, contender, error)


@contextmanager
def _awake(contender: Contender, workplace: Workplace) -> Iterator[Server | None]:
    """Let a system's server go on for a turn; or start it for that."""
    if not contender.system.bears_halting:
        with serving(contender.system, contender.site, workplace) as server:
            yield server
    elif contender.server is None:
        yield None
    else:
        contender.server.resume()
        try:
            yield contender.server
        finally:
            contender.server.halt()


def _drop(compared: Compared, contender: Contender, error: Exception) -> None:
    compared.absent[contender.system.name] = str(error)
    compared.contenders.remove(contender)
