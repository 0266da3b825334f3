"""What became of each request, and figures over many of them."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

__all__ = [
    "HUNG",
    "Down",
    "ReleaseFigures",
    "Result",
    "SplitWindow",
    "compare_releases",
    "first_full_second",
    "percentile_ms",
    "read_results",
    "tally",
]

HUNG = "HUNG"
"""The code of a call that did not end with its deadline."""

_WINDOW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """One request; times are seconds on the monotonic clock, which all processes share."""

    due: float
    """When it was to be sent; latency counts from here."""
    sent: float
    finished: float
    target: int
    """Number of the recommender that it was sent to."""
    code: str
    user: int
    source: str = ""
    reason: str = ""
    release: int = 0
    article_ids: list[int] | None = None
    scores: list[float] | None = None

    @property
    def latency(self) -> float:
        """Seconds from when it was due."""
        return self.finished - self.due

    @property
    def answered(self) -> bool:
        """Whether there is an answer; one that is late has the code DEADLINE_EXCEEDED."""
        return self.code == "OK"

    @property
    def personalized(self) -> bool:
        """Whether the answer is all that was asked for."""
        return self.source == "PERSONALIZED"

    def to_json(self) -> str:
        """Write as one line."""
        return json.dumps(list(asdict(self).values()))


@dataclass(frozen=True)
class Down:
    """A recommender that was itself killed or stopped, from when to when."""

    target: int
    begin: float
    end: float

    def was_handed(self, result: Result) -> bool:
        """Whether the request failed because it was in the hands of that recommender."""
        in_its_hands = result.sent <= self.end and result.finished >= self.begin
        return result.target == self.target and in_its_hands and not result.answered


@dataclass(frozen=True)
class SplitWindow:
    """A time in which this share of the users must get the release, the same ones every time."""

    release: int
    share: float
    begin: float
    end: float


@dataclass(frozen=True)
class ReleaseFigures:
    """What one of the two releases of a split answered."""

    release: int
    users: int
    requests: int
    sources: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None


def compare_releases(
    results: Sequence[Result], windows: Sequence[SplitWindow]
) -> tuple[ReleaseFigures, ...]:
    """Set side by side what the releases answered while users were divided between them."""
    divided = [window for window in windows if 0 < window.share < 1]
    answers: dict[int, list[Result]] = defaultdict(list)
    for one in results:
        if one.answered and any(window.begin <= one.due < window.end for window in divided):
            answers[one.release].append(one)
    return tuple(
        ReleaseFigures(
            release,
            len({one.user for one in given}),
            len(given),
            tally(given, lambda one: one.source),
            percentile_ms(given, 50),
            percentile_ms(given, 99),
        )
        for release, given in sorted(answers.items())
    )


def read_results(path: Path) -> list[Result]:
    """Read what a load process wrote, in the order in which the requests were due."""
    with path.open() as lines:
        return sorted((Result(*json.loads(line)) for line in lines), key=lambda one: one.due)


def tally(results: Iterable[Result], what: Callable[[Result], str]) -> dict[str, int]:
    """Count results by what is said of them; those of which nothing is said are left out."""
    counts = Counter(what(result) for result in results)
    return {name: count for name, count in sorted(counts.items()) if name}


def percentile_ms(results: Sequence[Result], percent: float) -> float | None:
    """Answer a percentile of the answers' latency in ms; None where there are none."""
    latencies = [result.latency for result in results if result.answered]
    return round(float(np.percentile(latencies, percent)) * 1000, 2) if latencies else None


def first_full_second(results: Sequence[Result], begin: float) -> float | None:
    """Answer how long after `begin` the first second began in which all was PERSONALIZED.

    None where there was no such second.
    """
    later = [result for result in results if result.due >= begin]
    if not later:
        return None
    failures = [result.due for result in later if not result.personalized]
    for start, end in zip([begin, *failures], [*failures, later[-1].due], strict=True):
        if end - start >= _WINDOW_SECONDS:
            return round(start - begin, 3)
    return None
