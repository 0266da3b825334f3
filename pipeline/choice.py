"""What learning hangs on that the options leave open: settled by the amount of data alone."""

import math
from typing import Final

from pipeline.errors import TrainingError
from pipeline.options import ModelKind, TowerSettings, TrainOptions
from pipeline.prepared import PreparedData
from releases.layout import HISTORY_LENGTH

__all__ = [
    "choose_batch_size",
    "choose_dropout",
    "choose_epochs",
    "choose_model",
    "choose_row_count",
    "settings_of",
]

_TRANSFORMER_FROM_STEPS: Final = 300_000
"""With fewer the transformer was not measured: mean pooling is what was there before."""
_LAYERS: Final = 2
_HEADS: Final = 2
"""With more of either a request would take longer than it may (docs/quality.md)."""
_MEAN_POOLING_DROPOUT: Final = 0.3
_MOST_ROWS: Final = 64
_VIEWS_IN_ALL: Final = 15_000_000
_FEWEST_EPOCHS: Final = 5
_MOST_EPOCHS: Final = 60


def choose_model(options: TrainOptions, prepared: PreparedData) -> ModelKind:
    """Answer the kind that is asked for, or else the one for so much data."""
    if options.model is not None:
        return options.model
    return "transformer" if prepared.step_count >= _TRANSFORMER_FROM_STEPS else "mean-pooling"


def settings_of(options: TrainOptions, prepared: PreparedData) -> TowerSettings:
    """Settle all that shapes the tower. Raises TrainingError where the options don't fit."""
    model = choose_model(options, prepared)
    if model == "transformer" and options.dimension % _HEADS:
        raise TrainingError(
            f"the dimension, {options.dimension}, is no multiple of the transformer's "
            f"{_HEADS} heads"
        )
    return TowerSettings(
        model=model,
        article_count=prepared.article_count,
        region_count=prepared.region_count,
        dimension=options.dimension,
        hidden_units=options.hidden_units,
        dropout=choose_dropout(options, model, prepared.step_count, prepared.article_count),
        history_dropout=options.history_dropout,
        region_dropout=options.region_dropout,
        layers=_LAYERS,
        heads=_HEADS,
    )


def choose_dropout(
    options: TrainOptions, model: ModelKind, step_count: int, article_count: int
) -> float:
    """Settle the transformer's by the data: articles that are seldom viewed are learnt by heart,
    so from 0.2 at 200 views to 0.3 at 20.
    """
    if options.dropout is not None:
        return options.dropout
    if model == "mean-pooling":
        return _MEAN_POOLING_DROPOUT
    views_of_article = max(1.0, step_count / article_count)
    return min(0.3, max(0.2, 0.2 + 0.1 * math.log10(200 / views_of_article)))


def choose_epochs(options: TrainOptions, step_count: int, article_count: int) -> int:
    """Settle when the transformer's learning rate is to be nothing: after so many views in all, and
    before articles that are seldom viewed are learnt by heart.
    """
    if options.max_epochs is not None:
        return options.max_epochs
    before_by_heart = 1.5 * math.sqrt(step_count / article_count)
    wanted = round(min(_VIEWS_IN_ALL / max(1, step_count), before_by_heart))
    return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, wanted))


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
