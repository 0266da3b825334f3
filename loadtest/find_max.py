"""The highest rate that still keeps a budget."""

from loadtest.measurement import Measurement

__all__ = ["PERSONALIZED_SHARE", "MaxRateSearch", "keeps_budget"]

_GROWTH = 1.5
_TRIES = 2
PERSONALIZED_SHARE = 0.99
"""Of the requests, at the least."""


def keeps_budget(measured: Measurement, budget_ms: float) -> bool:
    """Whether p99 is within the budget, and 99 % of the requests were answered PERSONALIZED.

    Quick answers that are none, or are not what was asked for, keep no budget.
    """
    return (
        measured.latencies.percentile_ms(99) <= budget_ms
        and measured.personalized_share >= PERSONALIZED_SHARE
    )


class MaxRateSearch:
    """Asks for rates to try, until the best is known to within `precision` (a ratio).

    Rates grow by half until one fails, then the gap is halved. One that fails is tried once more:
    on a shared machine a failure may be another's doing, and a success is nobody's.
    """

    def __init__(self, first: float, *, precision: float = 1.1, most: float = 100_000) -> None:
        self._next = first
        self._precision = precision
        self._most = most
        self._failures = 0
        self._failed: float | None = None
        self.best: float | None = None
        """The highest rate that kept the budget; None: none did so far."""

    @property
    def next_rate(self) -> float | None:
        """The rate to try now; None when the search is over."""
        if self._failed is None:
            return self._next if self._next <= self._most else None
        floor = self.best or 1.0
        return self._next if self._failed > floor * self._precision else None

    def tell(self, *, kept: bool) -> None:
        """Say whether `next_rate` kept the budget."""
        if not kept:
            self._failures += 1
            if self._failures < _TRIES:
                return
            self._failed = self._next
        else:
            self.best = self._next
        self._failures = 0
        if self._failed is None:
            self._next *= _GROWTH
        else:
            # The middle of a ratio: a rate is as far from 100 as from 400 at 200.
            self._next = ((self.best or self._failed / 4) * self._failed) ** 0.5
