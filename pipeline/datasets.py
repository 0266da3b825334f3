"""What is learnt from, as `tf.data`: each epoch in its own order, the same in a repeated run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import tensorflow as tf

from pipeline.examples import parse_examples
from pipeline.sequences import parse_sequences
from releases.layout import HISTORY_LENGTH

__all__ = ["Batches", "SequenceBatches", "TrainingBatches", "validation_batches"]

_KEPT_IN_MEMORY: Final = 1_000_000
"""Examples, serialised: some 150 bytes each."""
_SHUFFLED: Final = 500_000
"""Examples among which the next one is drawn; a shard holds whole users, one after the other."""
_STEPS_KEPT_IN_MEMORY: Final = 50_000_000
"""Serialised: some 4 bytes each."""
_SHUFFLED_USERS: Final = 200_000
_SHUFFLED_ROWS: Final = 50_000
"""Of 50 steps, 16 bytes each: 40 MB."""
_USERS_AT_ONCE: Final = 256
_VALIDATED_AT_ONCE: Final = 500
_LOGITS_AT_ONCE: Final = 50_000_000
"""Of a validation batch with every article: 200 MB, and as much again for their gradients, which
TensorFlow works out beside the loss. Up to 100,000 articles the batches are whole."""


class Batches(Protocol):
    """Batches of all there is to learn from, epoch by epoch; dicts of int32 tensors."""

    def epoch(self, number: int, skip: int = 0) -> Any:
        """Make the data set of one epoch, from a step of it on; the same each time it is asked."""


class TrainingBatches:
    """Full batches of the training examples, epoch by epoch.

    Of several workers each reads all of them and takes its part of each batch: together they see
    what a single one would have seen.
    """

    def __init__(
        self,
        files: Sequence[Path],
        example_count: int,
        batch_size: int,
        seed: int,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self._seed = seed
        self._part = slice(worker, None, workers)
        self._shuffled = min(_SHUFFLED, example_count)
        self._records = _records(files)
        if example_count <= _KEPT_IN_MEMORY:
            self._records = self._records.cache()

    def epoch(self, number: int, skip: int = 0) -> Any:
        """Make the data set of one epoch, from a step of it on; the same each time it is asked."""
        shuffled = self._records.shuffle(
            self._shuffled, seed=self._seed + number, reshuffle_each_iteration=False
        )
        batches = shuffled.batch(self.batch_size, drop_remainder=True).skip(skip)
        return batches.map(lambda records: parse_examples(records[self._part])).prefetch(2)


class SequenceBatches:
    """Rows of 50 steps (`pipeline.sequences`), each row full, epoch by epoch.

    The users' steps, in an order of each epoch's own, are laid end to end and cut every 50: no
    place is padding, and a long history is cut at other views each time. Of several workers each
    reads all of them and takes its part of each batch.
    """

    def __init__(
        self,
        files: Sequence[Path],
        step_count: int,
        rows: int,
        seed: int,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self._records = _records(files)
        if step_count <= _STEPS_KEPT_IN_MEMORY:
            self._records = self._records.cache()
        self._rows, self._seed = rows, seed
        self._part = slice(worker, None, workers)

    def epoch(self, number: int, skip: int = 0) -> Any:
        """Make the data set of one epoch, from a step of it on; the same each time it is asked."""
        users = self._records.shuffle(
            _SHUFFLED_USERS, seed=self._seed + number, reshuffle_each_iteration=False
        )
        parsed = users.batch(_USERS_AT_ONCE).enumerate().map(
            lambda group, records: parse_sequences(records, group * _USERS_AT_ONCE)
        )  # fmt: skip
        rows = parsed.rebatch(HISTORY_LENGTH, drop_remainder=True)
        # Rows of one user come one after the other: a batch of them would know nobody else.
        shuffled = rows.shuffle(
            _SHUFFLED_ROWS, seed=self._seed + number, reshuffle_each_iteration=False
        )
        batches = shuffled.batch(self._rows, drop_remainder=True).skip(skip)
        return batches.map(
            lambda batch: {name: values[self._part] for name, values in batch.items()}
        ).prefetch(2)


def validation_batches(files: Sequence[Path], article_count: int) -> Any:
    """Make the data set of the validation examples, in order.

    The more articles there are to score, the fewer examples are in a batch.
    """
    rows = max(1, min(_VALIDATED_AT_ONCE, _LOGITS_AT_ONCE // article_count))
    return _records(files).batch(rows).map(parse_examples).cache()


def _records(files: Sequence[Path]) -> Any:
    return tf.data.TFRecordDataset([str(file) for file in files], compression_type="GZIP")
