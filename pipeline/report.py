"""What a run is reported by: the figures of its evaluation, its index and its training."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.metrics import CUTOFFS, RankingMetrics
from pipeline.run import RunResult
from pipeline.samples import SamplePrediction, read_samples
from reporting import BarChart, Figure, LineChart, Report, Section, Series, Table

if TYPE_CHECKING:
    from pipeline.train import TrainedModel

__all__ = ["TARGET", "report_run", "samples_section", "training_section"]

TARGET: Final = "pipeline"


def report_run(result: RunResult, seconds_total: float) -> Report:
    """Put the results of a run into one report; its musts are the gate's."""
    return Report(
        target=TARGET,
        figures=_figures(result, seconds_total),
        details={"manifest": _manifest_details(result), "data": _data_details(result)},
        sections=(
            _gate(result),
            _ranking(result),
            samples_section(read_samples(result.indexed.samples)),
            _index(result),
            training_section(result.trained),
            _steps(result),
            _data(result),
        ),
    )


def _figures(result: RunResult, seconds_total: float) -> tuple[Figure, ...]:
    metrics = result.evaluation.offline_metrics()
    values: dict[str, tuple[float, str]] = {
        "release": (result.release, "unix second"),
        **{name: (value, "share") for name, value in metrics.items()},
        "index_recall_at_200": (result.indexed.info.recall_at_200, "share"),
        "index_lists": (result.indexed.info.lists, "lists"),
        "index_nprobe": (result.indexed.info.nprobe, "lists"),
        "train_seconds": (result.trained.seconds, "s"),
        "seconds_total": (seconds_total, "s"),
    }
    figures = (Figure(name, value, unit) for name, (value, unit) in values.items())
    return (*figures, *(check.figure for check in result.decision.checks))


def _manifest_details(result: RunResult) -> dict[str, Any] | None:
    if result.manifest is None:
        return None
    names = {"run_started", "data", "dimension", "article_count", "index", "versions"}
    return result.manifest.model_dump(mode="json", include=names)


def _data_details(result: RunResult) -> dict[str, int]:
    return {
        "events": result.collected.event_count,
        "duplicates_dropped": result.collected.duplicates_dropped,
        "unusable_dropped": result.collected.unusable_dropped,
        "future_dropped": result.collected.future_dropped,
        "users": result.collected.user_count,
        "articles": result.collected.article_count,
        "articles_learnt": result.prepared.article_count,
        "regions": result.prepared.region_count,
        "training_examples": result.prepared.example_count,
        "training_steps": result.prepared.step_count,
        "test_users": result.evaluation.test_user_count,
        "test_users_asked": result.evaluation.user_count,
        "unknown_targets": result.evaluation.unknown_targets,
        "seen_targets": result.evaluation.seen_targets,
    }


def _gate(result: RunResult) -> Section:
    decision = result.decision
    if decision.accepted:
        what = f"Release {result.release} passed every check and was published."
    elif result.manifest is not None:
        what = f"Release {result.release} did not pass and was published all the same, as told."
    else:
        what = f"Release {result.release} was refused; the store is as it was."
    rows = tuple(
        (one.name, one.value, one.unit, one.must, "yes" if one.holds else "no")
        for one in decision.checks
    )
    return Section("Gate", what, (Table(("check", "found", "", "must be", "holds"), rows),))


def _ranking(result: RunResult) -> Section:
    evaluation = result.evaluation
    ranked = {
        "model": evaluation.model,
        "transitions": evaluation.transitions,
        "popularity": evaluation.popularity,
    }
    if evaluation.in_service is not None:
        ranked["release in service"] = evaluation.in_service
    cutoffs = [f"{name}@{k}" for name in ("HR", "NDCG") for k in CUTOFFS]
    table = Table(
        headings=("", *cutoffs, "MRR", "coverage@200"),
        rows=tuple((name, *_cells(metrics)) for name, metrics in ranked.items()),
    )
    bars = BarChart({f"{name} HR@200": each.hit_rate[200] for name, each in ranked.items()})
    return Section(
        "Held-out views, ranked among all articles",
        f"{_split(result)} The last view of each of {evaluation.user_count} users "
        f"(of {evaluation.test_user_count} that have one to test), asked from the exported model; "
        f"articles already viewed are {'left out' if evaluation.seen_removed else 'kept'}; "
        f"{evaluation.unknown_targets} targets outside of the vocabulary and "
        f"{evaluation.seen_targets} that the user had viewed before count as misses, "
        "ties count against us.",
        (table, bars),
    )


def _split(result: RunResult) -> str:
    since = result.prepared.split_since
    if since is None:
        return "Each user's last view is held out."
    return f"Nothing from {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC on was learnt."


def samples_section(samples: tuple[SamplePrediction, ...]) -> Section:
    """Show what a few users viewed and are recommended."""
    rows = tuple(
        (
            sample.user,
            "; ".join(title or str(article) for article, title in sample.viewed),
            "; ".join(title or str(article) for article, title, _ in sample.recommended),
        )
        for sample in samples
    )
    return Section(
        "Sample predictions",
        "What a few users viewed, newest first, and what the release recommends to them.",
        (Table(("user", "viewed", "recommended"), rows),),
    )


def _steps(result: RunResult) -> Section:
    rows = tuple((step, f"{seconds:.1f}") for step, seconds in result.seconds.items())
    return Section("Steps", content=(Table(("step", "seconds"), rows),))


def _cells(metrics: RankingMetrics) -> tuple[float, ...]:
    return (*metrics.hit_rate.values(), *metrics.ndcg.values(), metrics.mrr, metrics.coverage)


def training_section(trained: "TrainedModel") -> Section:
    """Draw the losses."""
    rounds = trained.rounds
    chart = LineChart(
        x_label="epochs",
        y_label="loss, nats",
        series=(
            Series("training", tuple((r.epochs, r.training_loss) for r in rounds)),
            Series("validation", tuple((r.epochs, r.validation_loss) for r in rounds)),
        ),
    )
    return Section(
        "Training",
        f"{trained.tower.model}: {trained.view_count} views to foretell, {trained.batch_size} in a "
        f"step; the weights after epoch {trained.best_round.epochs:.1f} were kept.",
        (chart,),
    )


def _index(result: RunResult) -> Section:
    index = result.indexed.info
    factors = sorted({point.refine_factor for point in index.curve})
    chart = LineChart(
        x_label="p50 of one query in one thread, ms",
        y_label="recall@200",
        series=tuple(
            Series(
                "recall" if len(factors) == 1 else f"refined {factor:g} times",
                tuple(
                    sorted(
                        (point.p50_ms, point.recall_at_200)
                        for point in index.curve
                        if point.refine_factor == factor
                    )
                ),
            )
            for factor in factors
        ),
    )
    rows = tuple(
        (point.nprobe, point.refine_factor, point.recall_at_200, point.p50_ms, point.p99_ms)
        for point in index.curve
    )
    return Section(
        "Index: recall and latency",
        f"{index.type}; searches probe {index.nprobe} of {index.lists} lists.",
        (chart, Table(("nprobe", "refine factor", "recall@200", "p50 ms", "p99 ms"), rows)),
    )


def _data(result: RunResult) -> Section:
    rows = tuple((name.replace("_", " "), value) for name, value in _data_details(result).items())
    return Section("Data", content=(Table(("what", "count"), rows),))
