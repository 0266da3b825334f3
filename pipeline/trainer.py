"""The training loop: compiled steps, a running average of the weights, and when to stop."""

import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import TrainingError
from pipeline.lessons import Lessons
from pipeline.options import TrainOptions
from pipeline.softmax import (
    FULL_SOFTMAX_LIMIT,
    full_softmax_loss,
    sampled_softmax_loss,
)
from pipeline.tower import Tower
from pipeline.workers import Workers

__all__ = ["Round", "Trainer"]

_STEPS_OF_ROUND: Final = 250  # validated at least this often, so that long epochs can stop early
_FEWEST_NEGATIVES: Final = 1_024
_MOST_NEGATIVES: Final = 8_192
_ARTICLES_OF_A_NEGATIVE: Final = 10
_AVERAGE_KEEPS: Final = 0.6  # of the running average of the weights, at the end of each round
_COMPILE_FROM_STEPS: Final = 20  # with fewer, XLA's compilation takes longer than it saves


@dataclass(frozen=True)
class Round:
    """What was reached after some more steps; losses in nats, times since the start."""

    epochs: float
    seconds: float
    training_loss: float
    validation_loss: float


class _State(tf.Module):  # type: ignore[misc] # tensorflow has no types
    """All that training goes on from: what a checkpoint holds."""

    def __init__(self, tower: Tower, optimizer: Any) -> None:
        super().__init__()
        # With the states of what is drawn at random, which Keras counts among the variables.
        self.tower = [variable.value for variable in tower.variables]
        self.optimizer = [variable.value for variable in optimizer.variables]
        self.average = [tf.Variable(weight) for weight in tower.get_weights()]
        self.best = [tf.Variable(weight) for weight in tower.get_weights()]
        self.best_loss = tf.Variable(np.inf, dtype=tf.float64)
        self.steps = tf.Variable(0, dtype=tf.int64)
        self.waited = tf.Variable(0, dtype=tf.int64)
        self.seconds = tf.Variable(0.0, dtype=tf.float64)
        self.rounds = tf.Variable(np.zeros((0, 4)), shape=(None, 4), dtype=tf.float64)


class Trainer:
    """Learns one tower. After `rounds` is used up, `best_weights` are those to keep."""

    def __init__(
        self,
        workers: Workers,
        tower: Tower,
        lessons: Lessons,
        validation: Any,
        options: TrainOptions,
    ) -> None:
        self._workers = workers
        self._tower, self._validation, self._options = tower, validation, options
        self._lessons, self._steps_of_epoch = lessons, lessons.steps_of_epoch
        self._is_sampled = tower.settings.article_count > FULL_SOFTMAX_LIMIT
        with workers.strategy.scope():
            optimizer = keras.optimizers.Adam(options.learning_rate)
            optimizer.build(tower.trainable_variables)
        self._optimizer = optimizer
        self._state = _State(tower, optimizer)
        self._epoch: Iterator[Any] = iter(())
        # XLA does not compile what workers tell each other.
        is_compiled = workers.count == 1 and self._steps_of_epoch >= _COMPILE_FROM_STEPS
        self._step = tf.function(self._descend_together, jit_compile=is_compiled)
        self._losses = tf.function(self._full_losses, reduce_retracing=True)

    @property
    def best_weights(self) -> list[np.ndarray[Any, Any]]:
        """Those of the lowest validation loss, in the tower's order."""
        return [weight.numpy() for weight in self._state.best]

    def checkpoints(self, directory: Path) -> Any:
        """Name the checkpoints below a folder: the newest one, and nothing unfinished."""
        checkpoint = tf.train.Checkpoint(state=self._state)
        return tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=1)

    def rounds_so_far(self) -> tuple[Round, ...]:
        """The rounds that were taken, those before a restart included."""
        return tuple(Round(*row) for row in self._state.rounds.numpy().tolist())

    def rounds(self) -> Iterator[Round]:
        """Train until time, epochs or patience run out; one value at the end of each round.

        Goes on from where the state is. Raises TrainingError when the loss is no longer a number.
        """
        state = self._state
        started = time.monotonic() - float(state.seconds.numpy())
        deadline = started + self._options.max_train_seconds
        validating = 0.0
        while self._workers.agree(self._goes_on()):
            if self._lessons.cools:
                self._cool()
            # The round's own validation belongs to the time that is given.
            losses = self._train_round(deadline - validating)
            trained = time.monotonic()
            loss = self._keep_if_best()
            validating = time.monotonic() - trained
            state.seconds.assign(time.monotonic() - started)
            yield self._remember(
                Round(
                    epochs=int(state.steps.numpy()) / self._steps_of_epoch,
                    seconds=float(state.seconds.numpy()),
                    training_loss=float(np.mean(losses)),
                    validation_loss=loss,
                )
            )
            if self._workers.agree(time.monotonic() >= deadline - validating):
                return

    def _goes_on(self) -> bool:
        state, most_steps = self._state, self._lessons.epochs * self._steps_of_epoch
        is_in_time = float(state.seconds.numpy()) < self._options.max_train_seconds
        return is_in_time and int(state.waited.numpy()) < self._options.patience and (
            int(state.steps.numpy()) < most_steps
        )  # fmt: skip

    def _cool(self) -> None:
        """Lower the learning rate by what is over of the epochs or, if that is more, of the time.

        Several workers, whose clocks differ, go by the epochs.
        """
        over = int(self._state.steps.numpy()) / (self._lessons.epochs * self._steps_of_epoch)
        if self._workers.count == 1:
            over = max(over, float(self._state.seconds.numpy()) / self._options.max_train_seconds)
        self._optimizer.learning_rate.assign(self._options.learning_rate * (1 - over))

    def _remember(self, done: Round) -> Round:
        rounds = self._state.rounds.numpy()
        self._state.rounds.assign(np.vstack([rounds, astuple(done)]))
        return done

    def _train_round(self, deadline: float) -> list[float]:
        """Take the steps of a round; at least one, and none after the deadline.

        Several workers end a round together, whatever their clocks say.
        """
        losses = []
        for _ in range(min(self._steps_of_epoch, _STEPS_OF_ROUND)):
            batch = self._next_batch()
            losses.append(self._step(**batch, **self._negatives()))
            self._state.steps.assign_add(1)
            if self._workers.count == 1 and time.monotonic() >= deadline:
                break
        values = [float(loss) for loss in losses]
        if not np.isfinite(values).all():
            raise TrainingError(
                "the training loss is no longer a number: lower the learning rate "
                f"({self._options.learning_rate})"
            )
        return values

    def _next_batch(self) -> dict[str, Any]:
        batch = next(self._epoch, None)
        if batch is None:
            number, skip = divmod(int(self._state.steps.numpy()), self._steps_of_epoch)
            self._epoch = iter(self._lessons.batches.epoch(number, skip))
            batch = next(self._epoch)
        return dict(batch)

    def _negatives(self) -> dict[str, Any]:
        """Draw those of this step, the same ones when the step is repeated, with their shares."""
        random = np.random.default_rng((self._options.seed, int(self._state.steps.numpy())))
        articles = self._tower.settings.article_count
        wanted = articles // _ARTICLES_OF_A_NEGATIVE
        drawn = min(_MOST_NEGATIVES, max(_FEWEST_NEGATIVES, wanted))
        negatives = self._lessons.negatives
        rows = negatives.draw(random, drawn if self._is_sampled else 0)
        shares = negatives.shares[rows]
        return {"negatives": tf.constant(rows), "shares": tf.constant(shares, tf.float32)}

    def _descend_together(self, **batch: tf.Tensor) -> tf.Tensor:
        return self._workers.sum(self._descend, **batch)

    def _descend(self, negatives: tf.Tensor, shares: tf.Tensor, **batch: tf.Tensor) -> tf.Tensor:
        articles = self._tower.article_vectors
        with tf.GradientTape() as tape:
            vectors, label = self._tower.learn(batch)
            if self._is_sampled:
                loss = sampled_softmax_loss(vectors, articles, label, negatives, shares)
            else:
                loss = full_softmax_loss(vectors, articles, label)
            loss /= self._workers.count  # gradients and losses of all workers are summed
        variables = self._tower.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def _keep_if_best(self) -> float:
        """Validate the running average of the weights and those of now; early the latter win."""
        state = self._state
        current = self._tower.get_weights()
        is_first = not len(state.rounds.numpy())
        for average, weight in zip(state.average, current, strict=True):
            keeps = 0.0 if is_first else _AVERAGE_KEEPS
            average.assign(keeps * average.numpy() + (1 - keeps) * weight)
        best_before, losses = float(state.best_loss.numpy()), []
        for weights in ([average.numpy() for average in state.average], current):
            self._tower.set_weights(weights)
            losses.append(self._validation_loss())
            if losses[-1] < float(state.best_loss.numpy()):
                state.best_loss.assign(losses[-1])
                for kept, weight in zip(state.best, weights, strict=True):
                    kept.assign(weight)
        state.waited.assign(
            0 if float(state.best_loss.numpy()) < best_before else state.waited.numpy() + 1
        )
        return min(losses)

    def _validation_loss(self) -> float:
        total = count = 0.0
        for batch in self._validation:
            total += float(self._losses(**batch))
            count += len(batch["label"])
        return total / count

    def _full_losses(self, history: tf.Tensor, region: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        vectors = self._tower(history, region, training=False)
        mean = full_softmax_loss(vectors, self._tower.article_vectors, label)
        return mean * tf.cast(tf.shape(label)[0], tf.float32)
