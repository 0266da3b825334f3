"""Two stacks measured in turns, and the ratios of what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from loadtest.measurement import Measurement, measure
from loadtest.plan import LoadPlan
from loadtest.report import label_of
from local_stack.stack import LocalStack

__all__ = [
    "OURS",
    "PLAIN_CHAIN",
    "Pairs",
    "in_turn",
    "measure_pairs",
    "measure_stack",
]

OURS: Final = "this stack"
PLAIN_CHAIN: Final = "plain chain"
_SUSTAINED_SHARE: Final = 0.99

Figure = Callable[[Measurement], float]
Between = Callable[[], None]
"""Called in between: what is measured beside the stacks, and progress."""


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
            for name in in_turn(stacks, number):
                plan = replace(pairs.plan, seed=pairs.plan.seed + number)
                pairs.by_stack[name].append(measure_stack(stacks[name], plan))
                between()
    return all_pairs


def measure_stack(stack: LocalStack, plan: LoadPlan) -> Measurement:
    """Carry a plan out with one stack, and measure what its servers use."""
    target = stack.addresses["recommender"].target
    return measure(replace(plan, target=target), pids=stack.pids)


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """Answer the names in the order of a round: forth in one, back in the next."""
    ordered = list(names)
    return ordered if number % 2 == 0 else ordered[::-1]
