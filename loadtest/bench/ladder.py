"""The highest rate that each stack answers within a budget, rung by rung."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtest.bench.comparison import Between, in_turn, measure_stack
from loadtest.find_max import PERSONALIZED_SHARE
from loadtest.latencies import Latencies
from loadtest.measurement import Measurement
from loadtest.plan import LoadPlan
from local_stack.stack import LocalStack

__all__ = ["Ladder", "Rung", "Rungs", "climb", "highest"]

_MISSES: Final = 2
_LOUD_SHARE: Final = 0.002
"""Of the cores, taken away by the host of a virtual machine. At 20/s forty pieces of 5 s were
measured: p99 was 5.7 to 10.0 ms in the 16 with no more, and up to 29 ms in the others."""


@dataclass(frozen=True)
class Ladder:
    """Rates, ascending, each asked in `pieces` or more, for at least so many requests on average.

    Then those between the highest that was kept and the next: it times each of `finer`, ascending.
    """

    rates: Sequence[float]
    seconds: float
    """Of a piece: the shorter, the more of them meet the host at rest."""
    pieces: int
    least_requests: int = 0
    finer: Sequence[float] = ()

    def pieces_at(self, rate: float) -> int:
        """Answer in how many pieces a rate is asked."""
        return max(self.pieces, math.ceil(self.least_requests / (rate * self.seconds)))


@dataclass(frozen=True)
class Rung:
    """What a stack answered at a rate, in the quietest pieces."""

    rate: float
    p99_ms: float
    personalized_share: float
    stolen_share: float
    """In the loudest of the pieces."""
    is_kept: bool
    """Whether p99 was within the budget, and nearly all was answered PERSONALIZED."""

    @classmethod
    def of(cls, rate: float, pieces: Sequence[Measurement], budget_ms: float) -> "Rung":
        """Judge the pieces together."""
        latencies = Latencies.merged(piece.latencies.encode() for piece in pieces)
        p99_ms, requests = latencies.percentile_ms(99), sum(piece.requests for piece in pieces)
        personalized = sum(piece.personalized_share * piece.requests for piece in pieces) / requests
        stolen = max(piece.stolen_share for piece in pieces)
        is_kept = p99_ms <= budget_ms and personalized >= PERSONALIZED_SHARE
        return cls(rate, p99_ms, personalized, stolen, is_kept)


Rungs = Mapping[str, Sequence[Rung]]
"""Those that each stack was asked, in their order."""


def highest(rungs: Sequence[Rung]) -> float:
    """Answer the highest rate that was kept, 0 where none was."""
    return max((rung.rate for rung in rungs if rung.is_kept), default=0.0)


def climb(
    stacks: Mapping[str, LocalStack],
    plan: LoadPlan,
    budget_ms: float,
    ladder: Ladder,
    *,
    between: Between,
) -> Rungs:
    """Ask each stack the rates of a ladder until it has missed two in a row.

    In turns, so that a slow spell of the machine meets both. A piece during which the host of a
    virtual machine took cores away tells of the host; it is asked again, and the quietest are
    judged where there are not enough quiet ones among twice as many as it takes.
    """
    asking = _Climb(stacks, plan, budget_ms, ladder, between)
    coarse = asking.rungs(dict.fromkeys(stacks, ladder.rates))
    finer = asking.rungs({
        name: [best * times for times in ladder.finer]
        for name, rungs in coarse.items()
        if (best := highest(rungs))
    })  # fmt: skip
    return {name: [*rungs, *finer.get(name, ())] for name, rungs in coarse.items()}


@dataclass(frozen=True)
class _Climb:
    """What all rungs are asked with."""

    stacks: Mapping[str, LocalStack]
    plan: LoadPlan
    budget_ms: float
    ladder: Ladder
    between: Between

    def rungs(self, rates_of: Mapping[str, Sequence[float]]) -> dict[str, list[Rung]]:
        """Ask each stack its own rates, all as many."""
        rungs: dict[str, list[Rung]] = {name: [] for name in rates_of}
        for rates in zip(*rates_of.values(), strict=True):
            climbing = {
                name: rate
                for name, rate in zip(rates_of, rates, strict=True)
                if not _is_done(rungs[name])
            }
            for name, pieces in self._pieces(climbing).items():
                rungs[name].append(Rung.of(climbing[name], pieces, self.budget_ms))
        return rungs

    def _pieces(self, rates: Mapping[str, float]) -> dict[str, list[Measurement]]:
        """Measure each stack at its rate, and answer its quietest pieces."""
        wanted = {name: self.ladder.pieces_at(rate) for name, rate in rates.items()}
        pieces: dict[str, list[Measurement]] = {name: [] for name in rates}
        for number in range(2 * max(wanted.values(), default=0)):
            for name in in_turn(rates, number):
                if _is_enough(pieces[name], wanted[name]):
                    continue
                asked = self._asked(rates[name], number)
                pieces[name].append(measure_stack(self.stacks[name], asked))
                self.between()
        return {
            name: sorted(each, key=lambda piece: piece.stolen_share)[: wanted[name]]
            for name, each in pieces.items()
        }

    def _asked(self, rate: float, number: int) -> LoadPlan:
        return replace(
            self.plan, rate=rate, clients=None, seconds=self.ladder.seconds,
            seed=self.plan.seed + number,
        )  # fmt: skip


def _is_done(rungs: Sequence[Rung]) -> bool:
    return len(rungs) >= _MISSES and not any(rung.is_kept for rung in rungs[-_MISSES:])


def _is_enough(pieces: Sequence[Measurement], wanted: int) -> bool:
    quiet = sum(piece.stolen_share <= _LOUD_SHARE for piece in pieces)
    return quiet >= wanted or len(pieces) >= 2 * wanted
