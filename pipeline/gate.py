"""The step before publishing: whether the new release may take the place of the one in service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.evaluate import Evaluation
from pipeline.index import IndexedArticles
from pipeline.metrics import RankingMetrics
from pipeline.options import GateOptions
from pipeline.prepared import PreparedData
from pipeline.records import StepRecord
from releases.manifest import Manifest
from reporting import Figure

__all__ = ["Candidate", "Check", "Decision", "decide"]

_HOUR: Final = 3600.0
_MOST_AGREEMENT: Final = 0.95
"""Asked of the golden users' 20 best: full recall too leaves the order of ties open."""
_JUDGED: Final[tuple[tuple[str, str, Callable[[RankingMetrics], float]], ...]] = (
    ("HR@200", "hr_at_200", lambda metrics: metrics.hit_rate[200]),
    ("NDCG@200", "ndcg_at_200", lambda metrics: metrics.ndcg[200]),
)
"""Name, name in the manifest, value: whether a user's next view is among the 200 that are answered,
and how far up; in a small catalogue the former is near 1 whatever the model has learnt."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what it must be."""

    name: str
    value: float
    must: str
    unit: str = ""
    hint: str = ""
    """What to know or do where it does not hold."""

    @property
    def figure(self) -> Figure:
        """As a report shows it."""
        return Figure(self.name, self.value, self.unit, must=self.must)

    @property
    def holds(self) -> bool:
        """Whether it is what it must be."""
        return bool(self.figure.holds)

    @property
    def reason(self) -> str:
        """Say that it does not hold."""
        told = f"{self.name} is {self.value:.4g}, must be {self.must}"
        return f"{told}: {self.hint}" if self.hint else told


@dataclass(frozen=True)
class Decision(StepRecord):
    """Whether a release is published, and why not."""

    checks: tuple[Check, ...]
    is_published_anyway: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """Say what stands against publishing; empty where nothing does."""
        return tuple(one.reason for one in self.checks if not one.holds)

    @property
    def accepted(self) -> bool:
        """Whether every check holds."""
        return not self.reasons

    @property
    def lets_through(self) -> bool:
        """Whether the release is to be published."""
        return self.accepted or self.is_published_anyway


@dataclass(frozen=True)
class Candidate:
    """The release that is judged."""

    evaluation: Evaluation
    indexed: IndexedArticles
    prepared: PreparedData
    goldens_agreement: float
    """Share of the golden answers that exact search in the exported vectors gives too."""


def decide(
    options: GateOptions,
    candidate: Candidate,
    in_service: Manifest | None,
    now: float,
    directory: Path,
) -> Decision:
    """Judge a release by its evaluation, its index, its data (`now`: unix seconds) and, where there
    is one, by the release in service.
    """
    evaluation, recall = candidate.evaluation, candidate.indexed.info.recall_at_200
    checks = [
        _findable(evaluation),
        *_ratios("popularity", evaluation.model, evaluation.popularity, least=1.0),
        Check("index recall@200", recall, f">= {options.min_recall:g}"),
        _agreement(options, candidate.goldens_agreement),
    ]
    if options.max_age_hours is not None:
        age = (now - candidate.prepared.cut_off) / _HOUR
        checks.append(Check("age of the newest event", age, f"<= {options.max_age_hours:g}", "h"))
    if in_service is not None:
        checks += _beside(options, candidate, in_service)
    return Decision(directory, tuple(checks), options.publish_anyway)


def _agreement(options: GateOptions, found: float) -> Check:
    """Look whether index and vectors belong together.

    An index of other vectors or ids finds next to none of the golden users' best. One of its own
    misses some where less recall is asked for, and for a few users more than on average: hence the
    square.
    """
    least = min(_MOST_AGREEMENT, options.min_recall**2)
    return Check("golden users, as exact search", found, f">= {least:g}")


def _findable(evaluation: Evaluation) -> Check:
    """Look whether any next view tells models apart: where none can be found, all are as good."""
    asked, unknown = evaluation.user_count, evaluation.unknown_targets
    seen = evaluation.seen_targets
    hint = (
        f"of {asked} next views {unknown} are of articles that the model does not know (give more "
        f"events or lower --min-article-views) and {seen} of what the user had viewed before, "
        "which is left out (--keep-seen evaluates with it); --publish-anyway publishes unjudged"
    )
    name = "users whose next view can be found"
    return Check(name, asked - unknown - seen, ">= 1", hint=hint)


def _beside(options: GateOptions, candidate: Candidate, in_service: Manifest) -> list[Check]:
    """Compare with the release in service: its model on the same users, what it was measured to be
    when it came (where the log itself is spoilt, both are bad on its users), and its vocabulary.
    """
    evaluation = candidate.evaluation
    name, shrunk = f"release {in_service.release}", 1 - options.max_shrink
    share = candidate.prepared.article_count / in_service.article_count
    checks = [Check(f"articles / {name}", share, f">= {shrunk:g}")]
    if evaluation.in_service is not None:
        rival, least = f"{name} on the same users", 1 - options.max_drop
        checks += _ratios(rival, evaluation.model, evaluation.in_service, least)
    for metric, recorded_as, value in _JUDGED:
        recorded = in_service.offline_metrics.get(recorded_as)
        if recorded is not None:
            found = _over(value(evaluation.model), recorded)
            must = f">= {1 - options.max_fall:g}"
            checks.append(Check(f"{metric} / that of {name} when it came", found, must))
    return checks


def _ratios(
    rival: str, ours: RankingMetrics, theirs: RankingMetrics, least: float
) -> Iterator[Check]:
    for metric, _, value in _JUDGED:
        found = _over(value(ours), value(theirs))
        yield Check(f"{metric} / {rival}", found, f">= {least:g}")


def _over(ours: float, theirs: float) -> float:
    """Answer the ratio; against one that finds nothing everything is as good."""
    return ours / theirs if theirs else 1.0
