"""The training loop: compiled steps, a running average of the weights, and when to stop."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.errors import TrainingError
from pipeline.examples import Batch, Examples
from pipeline.model import UserTower
from pipeline.options import TrainOptions
from pipeline.softmax import (
    FULL_SOFTMAX_LIMIT,
    draw_negatives,
    full_softmax_loss,
    sampled_softmax_loss,
)

__all__ = ["Round", "Trainer", "choose_batch_size"]

_STEPS_OF_ROUND: Final = 250  # validated at least this often, so that long epochs can stop early
_NEGATIVES: Final = 1_024
_AVERAGE_KEEPS: Final = 0.6  # of the running average of the weights, at the end of each round
_COMPILE_FROM_STEPS: Final = 20  # with fewer, XLA's compilation takes longer than it saves
_VALIDATED_AT_ONCE: Final = 500

Weights = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Round:
    """What was reached after some more steps; losses in nats, times since the start."""

    epochs: float
    seconds: float
    training_loss: float
    validation_loss: float


def choose_batch_size(options: TrainOptions, example_count: int) -> int:
    """Small batches for few examples; beyond 512, more steps learn faster than larger ones."""
    if options.batch_size is not None:
        return min(options.batch_size, example_count)
    power = min(9, max(5, round(math.log2(example_count / 200))))
    return min(1 << power, example_count)


class Trainer:
    """Learns one tower. After `rounds` is used up, `best_weights` are those to keep."""

    def __init__(
        self, tower: UserTower, examples: Examples, validation: Examples, options: TrainOptions
    ) -> None:
        self.best_weights: Weights = tower.get_weights()
        self._tower, self._validation, self._options = tower, validation, options
        self._random = np.random.default_rng(options.seed)
        batch_size = choose_batch_size(options, len(examples))
        self._batches = examples.shuffled_batches(batch_size, self._random)
        self._steps_of_epoch = len(examples) // batch_size
        self._is_sampled = tower.settings.article_count > FULL_SOFTMAX_LIMIT
        self._optimizer = keras.optimizers.Adam(options.learning_rate)
        self._optimizer.build(tower.trainable_variables)
        self._step = tf.function(
            self._descend, jit_compile=self._steps_of_epoch >= _COMPILE_FROM_STEPS
        )
        self._losses = tf.function(self._full_losses, reduce_retracing=True)

    def rounds(self) -> Iterator[Round]:
        """Train until time, epochs or patience run out; one value at the end of each round.

        Raises TrainingError when the loss is no longer a number.
        """
        started = time.monotonic()
        deadline = started + self._options.max_train_seconds
        average: Weights = []
        best, waited, done, validating = np.inf, 0, 0, 0.0
        while waited < self._options.patience and self._has_epochs_left(done):
            # The round's own validation belongs to the time that is given.
            losses = self._train_round(deadline - validating)
            done += len(losses)
            trained = time.monotonic()
            average = _averaged(average, self._tower.get_weights())
            loss = self._keep_if_best(average, best)
            validating = time.monotonic() - trained
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            yield Round(
                epochs=done / self._steps_of_epoch,
                seconds=time.monotonic() - started,
                training_loss=float(np.mean(losses)),
                validation_loss=loss,
            )
            if time.monotonic() >= deadline - validating:
                return

    def _has_epochs_left(self, steps: int) -> bool:
        return steps < self._options.max_epochs * self._steps_of_epoch

    def _train_round(self, deadline: float) -> list[float]:
        """Take the steps of a round; at least one, and none after the deadline."""
        losses = []
        for _ in range(min(self._steps_of_epoch, _STEPS_OF_ROUND)):
            losses.append(self._step(*self._tensors(next(self._batches))))
            if time.monotonic() >= deadline:
                break
        values = [float(loss) for loss in losses]
        if not np.isfinite(values).all():
            raise TrainingError(
                "the training loss is no longer a number: lower the learning rate "
                f"({self._options.learning_rate})"
            )
        return values

    def _tensors(self, batch: Batch) -> tuple[tf.Tensor, ...]:
        count = self._tower.settings.article_count
        drawn = _NEGATIVES if self._is_sampled else 0
        negatives = draw_negatives(self._random, drawn, count)
        arrays = (batch.history, batch.region, batch.labels, negatives)
        return tuple(tf.constant(array) for array in arrays)

    def _descend(
        self, history: tf.Tensor, region: tf.Tensor, labels: tf.Tensor, negatives: tf.Tensor
    ) -> tf.Tensor:
        articles = self._tower.article_vectors
        with tf.GradientTape() as tape:
            vectors = self._tower(history, region, training=True)
            if self._is_sampled:
                loss = sampled_softmax_loss(vectors, articles, labels, negatives)
            else:
                loss = full_softmax_loss(vectors, articles, labels)
        variables = self._tower.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def _keep_if_best(self, average: Weights, best: float) -> float:
        """Validate the weights of now and their average; early on the former is better."""
        current = self._tower.get_weights()
        losses = []
        for weights in (average, current):
            self._tower.set_weights(weights)
            losses.append(self._validation_loss())
            if losses[-1] < min(best, *losses[:-1], np.inf):
                self.best_weights = weights
        return min(losses)

    def _validation_loss(self) -> float:
        chunks = self._validation.chunks(_VALIDATED_AT_ONCE)
        total = sum(
            float(self._losses(batch.history, batch.region, batch.labels)) for batch in chunks
        )
        return total / len(self._validation)

    def _full_losses(self, history: tf.Tensor, region: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        vectors = self._tower(history, region, training=False)
        mean = full_softmax_loss(vectors, self._tower.article_vectors, labels)
        return mean * tf.cast(tf.shape(labels)[0], tf.float32)


def _averaged(average: Weights, current: Weights) -> Weights:
    if not average:
        return current
    pairs = zip(average, current, strict=True)
    return [_AVERAGE_KEEPS * old + (1 - _AVERAGE_KEEPS) * new for old, new in pairs]
