"""Two stacks measured in turns, and the ratios of what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from loadtest.find_max import keeps_budget
from loadtest.measurement import Measurement, measure
from loadtest.plan import LoadPlan
from loadtest.report import label_of
from local_stack.stack import LocalStack

__all__ = [
    "OURS",
    "PLAIN_CHAIN",
    "Ladder",
    "Pairs",
    "highest_rates",
    "measure_pairs",
    "measure_stack",
]

OURS: Final = "this stack"
PLAIN_CHAIN: Final = "plain chain"
_SUSTAINED_SHARE: Final = 0.99
_MISSES: Final = 2

Figure = Callable[[Measurement], float]
Between = Callable[[], None]
"""Called in between: what is measured beside the stacks, and progress."""


@dataclass(frozen=True)
class Ladder:
    """Rates, ascending, each asked in `rounds` of at least so many requests on average.

    Then those between the highest that was kept and the next: it times each of `finer`, ascending.
    """

    rates: Sequence[float]
    rounds: int
    least_requests: int = 0
    finer: Sequence[float] = ()


@dataclass
class Pairs:
    """The same plan carried out by both stacks, time and again, one right after the other."""

    plan: LoadPlan
    by_stack: Mapping[str, list[Measurement]] = field(
        default_factory=lambda: {OURS: [], PLAIN_CHAIN: []}
    )

    @property
    def label(self) -> str:
        """What was asked."""
        return label_of(self.plan)

    def ratio(self, figure: Figure) -> float:
        """Answer the median of this stack's figure over the plain chain's in the same pair."""
        pairs = zip(self.by_stack[OURS], self.by_stack[PLAIN_CHAIN], strict=True)
        return median(figure(ours) / max(figure(plain), 1e-9) for ours, plain in pairs)

    def median_of(self, stack: str, figure: Figure) -> float:
        """Answer a stack's median."""
        return median(figure(one) for one in self.by_stack[stack])

    @property
    def plain_sustains(self) -> bool:
        """Whether the plain chain answers nearly all PERSONALIZED at this rate, each time."""
        return all(one.personalized_share >= _SUSTAINED_SHARE for one in self.by_stack[PLAIN_CHAIN])


def measure_pairs(
    stacks: Mapping[str, LocalStack],
    plans: Sequence[LoadPlan],
    rounds: int,
    *,
    between: Between,
    each_round: Between,
) -> list[Pairs]:
    """Carry out every plan `rounds` times with each stack, taking turns in who comes first."""
    all_pairs = [Pairs(plan) for plan in plans]
    for number in range(rounds):
        each_round()
        for pairs in all_pairs:
            for name in _in_turn(stacks, number):
                plan = replace(pairs.plan, seed=pairs.plan.seed + number)
                pairs.by_stack[name].append(measure_stack(stacks[name], plan))
                between()
    return all_pairs


def highest_rates(
    stacks: Mapping[str, LocalStack],
    plan: LoadPlan,
    budget_ms: float,
    ladder: Ladder,
    *,
    between: Between,
) -> dict[str, float]:
    """Answer the highest rate with p99 in the budget for each stack; 0: not even the lowest.

    Rung by rung and in turns, so that a slow spell of the machine meets both; a rung is kept when
    most of its rounds keep the budget, and a stack is done when it has missed two in a row.
    """
    climb = _Climb(stacks, plan, budget_ms, ladder, between)
    best = climb.best_of(dict.fromkeys(stacks, ladder.rates))
    finer = climb.best_of({
        name: [rate * times for times in ladder.finer] for name, rate in best.items() if rate
    })  # fmt: skip
    return {name: max(rate, finer.get(name, 0.0)) for name, rate in best.items()}


@dataclass(frozen=True)
class _Climb:
    """What all rungs are asked with."""

    stacks: Mapping[str, LocalStack]
    plan: LoadPlan
    budget_ms: float
    ladder: Ladder
    between: Between

    def best_of(self, rates_of: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Answer the highest that each stack keeps of its own rates, all of one length."""
        best, missed = dict.fromkeys(rates_of, 0.0), dict.fromkeys(rates_of, 0)
        for rung in zip(*rates_of.values(), strict=True):
            rates = dict(zip(rates_of, rung, strict=True))
            climbing = {name: rates[name] for name in rates if missed[name] < _MISSES}
            for name, is_kept in self._kept(climbing).items():
                if is_kept:
                    best[name], missed[name] = rates[name], 0
                else:
                    missed[name] += 1
        return best

    def _kept(self, rates: Mapping[str, float]) -> dict[str, bool]:
        kept = dict.fromkeys(rates, 0)
        for number in range(self.ladder.rounds):
            for name in _in_turn(rates, number):
                measured = measure_stack(self.stacks[name], self._asked(rates[name], number))
                kept[name] += keeps_budget(measured, self.budget_ms)
                self.between()
        return {name: count > self.ladder.rounds / 2 for name, count in kept.items()}

    def _asked(self, rate: float, number: int) -> LoadPlan:
        seconds = max(self.plan.seconds, self.ladder.least_requests / rate)
        return replace(
            self.plan, rate=rate, clients=None, seconds=seconds, seed=self.plan.seed + number
        )


def measure_stack(stack: LocalStack, plan: LoadPlan) -> Measurement:
    """Carry a plan out with one stack, and measure what its servers use."""
    target = stack.addresses["recommender"].target
    return measure(replace(plan, target=target), pids=stack.pids)


def _in_turn(names: Iterable[str], number: int) -> list[str]:
    ordered = list(names)
    return ordered if number % 2 == 0 else ordered[::-1]
