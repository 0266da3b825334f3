"""The kinds of user tower, which one the data call for, and what each learns from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pipeline.datasets import Batches, SequenceBatches, TrainingBatches
from pipeline.model import UserTower
from pipeline.options import ModelKind, TowerSettings, TrainOptions
from pipeline.prepared import PreparedData
from pipeline.tower import Tower
from pipeline.transformer import TransformerTower
from pipeline.workers import Workers
from releases.layout import HISTORY_LENGTH

__all__ = ["Lessons", "build_tower", "choose_batch_size", "choose_model", "lessons", "settings_of"]

_KINDS: Final[Mapping[ModelKind, Callable[[TowerSettings, int], Tower]]] = MappingProxyType(
    {"mean-pooling": UserTower, "transformer": TransformerTower}
)
_TRANSFORMER_FROM_STEPS: Final = 300_000
"""With fewer views to learn from, mean pooling finds more (docs/quality.md)."""
_MOST_ROWS: Final = 64
_MOST_EPOCHS: Final = 200
_VIEWS_IN_ALL: Final = 15_000_000
_FEWEST_EPOCHS: Final = 5
_MOST_COOLED_EPOCHS: Final = 60


def choose_model(options: TrainOptions, prepared: PreparedData) -> ModelKind:
    """Answer the kind that is asked for, or else the one for so much data."""
    if options.model is not None:
        return options.model
    return "transformer" if prepared.step_count >= _TRANSFORMER_FROM_STEPS else "mean-pooling"


def settings_of(options: TrainOptions, prepared: PreparedData) -> TowerSettings:
    """Settle all that shapes the tower."""
    model = choose_model(options, prepared)
    return TowerSettings(
        model=model,
        article_count=prepared.article_count,
        region_count=prepared.region_count,
        dimension=options.dimension,
        hidden_units=options.hidden_units,
        dropout=_dropout(options, prepared) if model == "transformer" else options.dropout,
        history_dropout=options.history_dropout,
        region_dropout=options.region_dropout,
        layers=options.layers,
        heads=options.heads,
    )


def _dropout(options: TrainOptions, prepared: PreparedData) -> float:
    if options.block_dropout is not None:
        return options.block_dropout
    return choose_dropout(prepared.step_count / prepared.article_count)


def choose_dropout(views_of_article: float) -> float:
    """Articles that are seldom viewed are learnt by heart: from 0.2 at 200 views to 0.5 at 20."""
    return min(0.5, max(0.2, 0.2 + 0.3 * math.log10(200 / max(1.0, views_of_article))))


def build_tower(settings: TowerSettings, worker: int = 0) -> Tower:
    """Make a tower that has learnt nothing. `worker`: its place among those that learn together."""
    return _KINDS[settings.model](settings, worker)


@dataclass(frozen=True)
class Lessons:
    """What a tower learns from."""

    batches: Batches
    batch_size: int
    """Views to foretell in a step of the training."""
    steps_of_epoch: int
    epochs: int
    """After so many training ends."""
    cools: bool
    """Whether the learning rate falls in equal steps from what it is to nothing at the end."""


def lessons(
    model: ModelKind, options: TrainOptions, prepared: PreparedData, workers: Workers
) -> Lessons:
    """Find the batches for a kind of tower. Of several workers each takes an equal part of one."""
    if model == "transformer":
        return _rows(options, prepared, workers)
    size = choose_batch_size(options, prepared.example_count, workers.count)
    batches = TrainingBatches(
        prepared.examples, prepared.example_count, size, options.seed, workers.index, workers.count
    )
    epochs = options.max_epochs or _MOST_EPOCHS
    return Lessons(batches, size, prepared.example_count // size, epochs, cools=False)


def _rows(options: TrainOptions, prepared: PreparedData, workers: Workers) -> Lessons:
    available = prepared.step_count // HISTORY_LENGTH
    rows = choose_row_count(options, available, workers.count)
    batches = SequenceBatches(
        prepared.sequences, prepared.step_count, rows, options.seed, workers.index, workers.count
    )
    epochs = options.max_epochs or choose_epochs(prepared.step_count, prepared.article_count)
    return Lessons(batches, rows * HISTORY_LENGTH, available // rows, epochs, cools=True)


def choose_epochs(step_count: int, article_count: int) -> int:
    """Settle when the rate is to be nothing: after so many views in all, and before articles that
    are seldom viewed are learnt by heart.
    """
    before_by_heart = 2 * math.sqrt(step_count / article_count)
    wanted = round(min(_VIEWS_IN_ALL / max(1, step_count), before_by_heart))
    return min(_MOST_COOLED_EPOCHS, max(_FEWEST_EPOCHS, wanted))


def choose_batch_size(options: TrainOptions, example_count: int, worker_count: int = 1) -> int:
    """Small batches for few examples; beyond 512, more steps learn faster than larger ones.

    Of several workers each takes an equal part of a batch.
    """
    if options.batch_size is not None:
        chosen = options.batch_size
    else:
        chosen = 1 << min(9, max(5, round(math.log2(example_count / 200))))
    return _shared(min(chosen, example_count), worker_count)


def choose_row_count(options: TrainOptions, available: int, worker_count: int = 1) -> int:
    """The same in rows of 50 views; of those there are `available`."""
    if options.batch_size is not None:
        chosen = round(options.batch_size / HISTORY_LENGTH)
    else:
        chosen = 1 << max(3, round(math.log2(max(1, available) / 100)))
    return _shared(max(1, min(chosen, _MOST_ROWS, available)), worker_count)


def _shared(size: int, worker_count: int) -> int:
    return max(worker_count, size - size % worker_count)
