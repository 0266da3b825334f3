"""Where the time of an answer went: stage after stage, then what is left of the round trip."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "BUDGET_MS",
    "ELSEWHERE",
    "Bar",
    "Stage",
    "Waterfall",
    "parse_server_timing",
    "waterfall",
]

BUDGET_MS: Final = 10.0
"""The time budget of an answer."""
ELSEWHERE: Final = "elsewhere"
"""Network, queues and conversion: what no stage accounts for."""
_ENTRY: Final = re.compile(
    r"(?P<name>[!#$%&'*+.^_`|~\w-]+)\s*;\s*dur\s*=\s*(?P<ms>\d+(\.\d*)?)", re.ASCII
)
_HEADROOM: Final = 1.08  # so that the longest bar, or the budget's line, is not at the very edge


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an answer and how long it took."""

    name: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A stage with its place in time."""

    name: str
    start_ms: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Bars that each begin where the one before ends, and the length of the axis."""

    bars: tuple[Bar, ...]
    total_ms: float
    axis_ms: float

    def share(self, milliseconds: float) -> float:
        """Answer a time as percent of the axis."""
        return 100.0 * milliseconds / self.axis_ms

    def on_axis(self, axis_ms: float) -> "Waterfall":
        """The same on another axis, so that two can be compared."""
        return Waterfall(self.bars, self.total_ms, axis_ms)


def parse_server_timing(header: str) -> tuple[Stage, ...]:
    """Read the trailing metadata `server-timing`; entries of another form are left out."""
    found = (_ENTRY.match(entry.strip()) for entry in header.split(","))
    return tuple(Stage(entry["name"], float(entry["ms"])) for entry in found if entry)


def waterfall(stages: Sequence[Stage], round_trip_ms: float) -> Waterfall:
    """Lay the stages end to end; what the round trip took beyond them comes last.

    The axis also holds the budget. Should the stages be longer than the round trip, which only
    clocks that disagree can cause, the stages count.
    """
    bars, end = [], 0.0
    for stage in stages:
        bars.append(Bar(stage.name, end, stage.milliseconds))
        end += stage.milliseconds
    total = max(end, round_trip_ms)
    bars.append(Bar(ELSEWHERE, end, total - end))
    return Waterfall(tuple(bars), total, _HEADROOM * max(total, BUDGET_MS))
