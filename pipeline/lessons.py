"""What each kind of tower learns from, in which steps and for how long."""

from dataclasses import dataclass
from typing import Final

from pipeline.choice import choose_batch_size, choose_epochs, choose_row_count
from pipeline.datasets import Batches, SequenceBatches, TrainingBatches
from pipeline.options import ModelKind, TrainOptions
from pipeline.prepared import PreparedData
from pipeline.softmax import Negatives
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
    negatives: Negatives
    """For a softmax over a sample."""


def lessons(
    model: ModelKind, options: TrainOptions, prepared: PreparedData, workers: Workers
) -> Lessons:
    """Find the batches for a kind of tower. Of several workers each takes an equal part of one."""
    negatives = Negatives(prepared.graph.articles().counts)
    if model == "transformer":
        return _of_sequences(options, prepared, workers, negatives)
    views = prepared.example_count
    size = choose_batch_size(options, views, workers.count)
    batches = TrainingBatches(
        prepared.examples, views, size, options.seed, workers.index, workers.count
    )
    epochs = options.max_epochs or _MOST_EPOCHS
    return Lessons(batches, views, size, views // size, epochs, cools=False, negatives=negatives)


def _of_sequences(
    options: TrainOptions, prepared: PreparedData, workers: Workers, negatives: Negatives
) -> Lessons:
    views = prepared.step_count
    available = views // HISTORY_LENGTH
    rows = choose_row_count(options, available, workers.count)
    batches = SequenceBatches(
        prepared.sequences, views, rows, options.seed, workers.index, workers.count
    )
    epochs = choose_epochs(options, views, prepared.article_count)
    size, steps = rows * HISTORY_LENGTH, available // rows
    return Lessons(batches, views, size, steps, epochs, cools=True, negatives=negatives)
