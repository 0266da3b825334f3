"""Training examples as `tf.data`: each epoch in its own order, the same in a repeated run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from pipeline.examples import parse_examples

__all__ = ["TrainingBatches", "validation_batches"]

_KEPT_IN_MEMORY: Final = 1_000_000
"""Examples, serialised: some 150 bytes each."""
_SHUFFLED: Final = 500_000
"""Examples among which the next one is drawn; a shard holds whole users, one after the other."""
_VALIDATED_AT_ONCE: Final = 500


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


def validation_batches(files: Sequence[Path]) -> Any:
    """Make the data set of the validation examples, in order."""
    return _records(files).batch(_VALIDATED_AT_ONCE).map(parse_examples).cache()


def _records(files: Sequence[Path]) -> Any:
    return tf.data.TFRecordDataset([str(file) for file in files], compression_type="GZIP")
