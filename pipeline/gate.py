"""The step before publishing: whether the new release may take the place of the one in service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.evaluate import Evaluation
from pipeline.index import IndexedArticles
from pipeline.metrics import RankingMetrics
from pipeline.options import GateOptions
from pipeline.preprocess import PreparedData
from releases.manifest import Manifest
from reporting import Figure

__all__ = ["Decision", "decide"]

_HOUR: Final = 3600.0
_JUDGED: Final[tuple[tuple[str, str, Callable[[RankingMetrics], float]], ...]] = (
    ("HR@200", "hr_at_200", lambda metrics: metrics.hit_rate[200]),
    ("NDCG@200", "ndcg_at_200", lambda metrics: metrics.ndcg[200]),
)
"""Name, name in the manifest, value: whether a user's next view is among the 200 that are answered,
and how far up; in a small catalogue the former is near 1 whatever the model has learnt."""


@dataclass(frozen=True)
class Decision:
    """What was looked at; each check is a figure with its must."""

    checks: tuple[Figure, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Say what stands against publishing; empty where nothing does."""
        return tuple(
            f"{one.name} is {one.value:.4g}, must be {one.must}"
            for one in self.checks
            if not one.holds
        )

    @property
    def accepted(self) -> bool:
        """Whether the release may be published."""
        return not self.reasons


def decide(
    options: GateOptions,
    evaluation: Evaluation,
    indexed: IndexedArticles,
    prepared: PreparedData,
    in_service: Manifest | None,
    now: float,
) -> Decision:
    """Judge a release by its evaluation, its index, its data (`now`: unix seconds) and, where there
    is one, by the release in service.
    """
    checks = [
        *_ratios("popularity", evaluation.model, evaluation.popularity, least=1.0),
        Figure("index recall@200", indexed.recall_at_200, must=f">= {options.min_recall:g}"),
    ]
    if options.max_age_hours is not None:
        checks.append(
            Figure(
                "age of the newest event", (now - prepared.cut_off) / _HOUR, "h",
                must=f"<= {options.max_age_hours:g}",
            )
        )  # fmt: skip
    if in_service is not None:
        checks += _beside(options, evaluation, prepared, in_service)
    return Decision(tuple(checks))


def _beside(
    options: GateOptions, evaluation: Evaluation, prepared: PreparedData, in_service: Manifest
) -> list[Figure]:
    """Compare with the release in service: its model on the same users, what it was measured to be
    when it came (where the log itself is spoilt, both are bad on its users), and its vocabulary.
    """
    name, shrunk = f"release {in_service.release}", 1 - options.max_shrink
    share = prepared.article_count / in_service.article_count
    checks = [Figure(f"articles / {name}", share, must=f">= {shrunk:g}")]
    if evaluation.in_service is not None:
        rival, least = f"{name} on the same users", 1 - options.max_drop
        checks += _ratios(rival, evaluation.model, evaluation.in_service, least)
    for metric, recorded_as, value in _JUDGED:
        recorded = in_service.offline_metrics.get(recorded_as)
        if recorded is not None:
            found = _over(value(evaluation.model), recorded)
            must = f">= {1 - options.max_fall:g}"
            checks.append(Figure(f"{metric} / that of {name} when it came", found, must=must))
    return checks


def _ratios(
    rival: str, ours: RankingMetrics, theirs: RankingMetrics, least: float
) -> Iterator[Figure]:
    for metric, _, value in _JUDGED:
        found = _over(value(ours), value(theirs))
        yield Figure(f"{metric} / {rival}", found, must=f">= {least:g}")


def _over(ours: float, theirs: float) -> float:
    """Answer the ratio; against one that finds nothing everything is as good."""
    return ours / theirs if theirs else 1.0
