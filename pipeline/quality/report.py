"""The report of `make quality`: quality beside what it costs, and examples for people."""

from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np

from pipeline.collect import CollectedEvents
from pipeline.exported import ExportedModel
from pipeline.index import IndexedArticles
from pipeline.items import read_titles
from pipeline.judgement_report import judgement_details, judgement_figures, judgement_sections
from pipeline.quality.data_sets import DataSet
from pipeline.quality.trial import Trial
from pipeline.report import samples_section, training_section
from pipeline.samples import read_samples
from pipeline.train import TrainedModel
from reporting import Figure, Report, Section, Table

__all__ = ["report_quality"]

_MOST_RUN_SECONDS: Final = 75 * 60.0
_MOST_MS: Final = 1.0
_GIB: Final = 1 << 30
_SHOWN_ARTICLES: Final = 15
_NEIGHBOURS: Final = 6


def report_quality(
    name: str, data_set: DataSet, trials: tuple[Trial, ...], *, quick: bool
) -> Report:
    """Compare with the published tables; `quick`: without, of so little data."""
    first = trials[0]
    trained = TrainedModel.load(first.workdir / "train")
    return Report(
        target=f"quality {name}",
        figures=(
            *_goals(data_set, trials, quick=quick),
            *_costs(trials, quick=quick),
            *judgement_figures(first.judgement),
        ),
        details={
            "protocol": data_set.protocol,
            "seeds": {
                str(trial.seed): {n: e.value for n, e in trial.judgement.model.items()}
                for trial in trials
            },
            "model": trained.tower.model,
            **judgement_details(first.judgement),
        },
        sections=(
            *judgement_sections(first.judgement, data_set.protocol),
            _seeds(data_set, trials),
            training_section(trained),
            samples_section(read_samples(IndexedArticles.load(first.workdir / "index").samples)),
            _neighbours(first.workdir, trained.tower.dimension),
        ),
    )


def _goals(data_set: DataSet, trials: tuple[Trial, ...], *, quick: bool) -> list[Figure]:
    suffix = f", mean of {len(trials)} seeds" if len(trials) > 1 else ", as served"
    return [
        Figure(
            goal.metric + suffix,
            mean(trial.judgement.model[goal.metric].value for trial in trials),
            "share",
            must=None if quick else f">= {goal.must:g}",
            aim=None if quick else f">= {goal.aim:g}",
        )
        for goal in data_set.goals
    ]


def _costs(trials: tuple[Trial, ...], *, quick: bool) -> list[Figure]:
    trained = [TrainedModel.load(trial.workdir / "train") for trial in trials]
    alone, together = (max(trial.latency_ms[size] for trial in trials) for size in ("1", "16"))
    return [
        Figure("model", trained[0].tower.model),
        Figure("longest training", max(each.seconds for each in trained), "s"),
        # The training alone would never fail: it ends itself after `max_train_seconds`.
        Figure(
            "longest run of the workflow",
            max(trial.run_seconds for trial in trials),
            "s",
            must=None if quick else f"< {_MOST_RUN_SECONDS:g}",
        ),
        Figure("peak memory", max(trial.peak_bytes for trial in trials) / _GIB, "GiB"),
        Figure(
            "SavedModel on one thread, batch of 1", alone, "ms",
            must=None if quick else f"< {_MOST_MS:g}",
        ),
        Figure("SavedModel on one thread, batch of 16", together, "ms"),
    ]  # fmt: skip


def _seeds(data_set: DataSet, trials: tuple[Trial, ...]) -> Section:
    names = tuple(goal.metric for goal in data_set.goals)
    rows = tuple(
        (str(trial.seed), *(str(trial.judgement.model[name]) for name in names)) for trial in trials
    )
    return Section("Seeds", content=(Table(("seed", *names), rows),))


def _neighbours(workdir: Path, learnt: int) -> Section:
    """List the articles nearest to the most viewed ones, by the angle between their vectors.

    Only of the `learnt` values: one behind them says how popular an article is.
    """
    exported = ExportedModel.load(workdir / "export")
    vectors, ids = exported.article_vectors()[:, :learnt], exported.article_ids()
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    directions = vectors / lengths
    items = CollectedEvents.load(workdir / "collect").items
    titles = {} if items is None else read_titles(items, ids)
    rows = []
    for row in range(min(_SHOWN_ARTICLES, len(ids))):
        nearest = np.argsort(-(directions @ directions[row]))[1 : _NEIGHBOURS + 1]
        names = [titles.get(int(ids[each]), "") or str(ids[each]) for each in (row, *nearest)]
        rows.append((names[0], "; ".join(names[1:])))
    return Section(
        "Nearest articles",
        "Beside the most viewed articles, those with the most similar vectors.",
        (Table(("article", "nearest"), tuple(rows)),),
    )
