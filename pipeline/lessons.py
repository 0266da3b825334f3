"""What each kind of tower learns from, in which steps and for how long."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.choice import choose_batch_size, choose_epochs, choose_row_count
from pipeline.datasets import Batches, SequenceBatches, TrainingBatches
from pipeline.options import ModelKind, TrainOptions
from pipeline.prepared import PreparedData
from pipeline.softmax import negative_shares
from pipeline.workers import Workers
from releases.layout import HISTORY_LENGTH

__all__ = ["Lessons", "lessons"]

_MOST_EPOCHS: Final = 200


@dataclass(frozen=True)
class Lessons:
    """What a tower learns from."""

    batches: Batches
    view_count: int
    """Views to foretell in an epoch."""
    batch_size: int
    """Views to foretell in a step of the training."""
    steps_of_epoch: int
    epochs: int
    """After so many training ends."""
    cools: bool
    """Whether the learning rate falls in equal steps from what it is to nothing at the end."""
    negative_shares: NDArray[np.float64]
    """float64[articles]: how likely each is drawn, where the softmax is over a sample."""


def lessons(
    model: ModelKind, options: TrainOptions, prepared: PreparedData, workers: Workers
) -> Lessons:
    """Find the batches for a kind of tower. Of several workers each takes an equal part of one."""
    shares = negative_shares(prepared.graph.articles().counts)
    if model == "transformer":
        return _of_sequences(options, prepared, workers, shares)
    size = choose_batch_size(options, prepared.example_count, workers.count)
    views = prepared.example_count
    batches = TrainingBatches(
        prepared.examples, views, size, options.seed, workers.index, workers.count
    )
    epochs = options.max_epochs or _MOST_EPOCHS
    return Lessons(batches, views, size, views // size, epochs, cools=False, negative_shares=shares)


def _of_sequences(
    options: TrainOptions, prepared: PreparedData, workers: Workers, shares: NDArray[np.float64]
) -> Lessons:
    views = prepared.step_count
    available = views // HISTORY_LENGTH
    rows = choose_row_count(options, available, workers.count)
    batches = SequenceBatches(
        prepared.sequences, views, rows, options.seed, workers.index, workers.count
    )
    epochs = choose_epochs(options, views, prepared.article_count)
    size, steps = rows * HISTORY_LENGTH, available // rows
    return Lessons(batches, views, size, steps, epochs, cools=True, negative_shares=shares)
