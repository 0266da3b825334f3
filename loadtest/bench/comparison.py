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
    """Rates, ascending, each asked in `rounds` of at least so many requests on average."""

    rates: Sequence[float]
    rounds: int
    least_requests: int = 0


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
    best, missed = dict.fromkeys(stacks, 0.0), dict.fromkeys(stacks, 0)
    for rate in ladder.rates:
        climbing = [name for name in stacks if missed[name] < _MISSES]
        kept = dict.fromkeys(climbing, 0)
        seconds = max(plan.seconds, ladder.least_requests / rate)
        for number in range(ladder.rounds):
            for name in _in_turn(climbing, number):
                asked = replace(
                    plan, rate=rate, clients=None, seconds=seconds, seed=plan.seed + number
                )
                kept[name] += keeps_budget(measure_stack(stacks[name], asked), budget_ms)
                between()
        for name in climbing:
            if kept[name] > ladder.rounds / 2:
                best[name], missed[name] = rate, 0
            else:
                missed[name] += 1
    return best


def measure_stack(stack: LocalStack, plan: LoadPlan) -> Measurement:
    """Carry a plan out with one stack, and measure what its servers use."""
    target = stack.addresses["recommender"].target
    return measure(replace(plan, target=target), pids=stack.pids)


def _in_turn(names: Iterable[str], number: int) -> list[str]:
    ordered = list(names)
    return ordered if number % 2 == 0 else ordered[::-1]
