"""What every user tower is: how training, export and evaluation ask it."""

from abc import abstractmethod
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.options import TowerSettings
from releases.layout import HISTORY_LENGTH

__all__ = ["Chance", "Tower", "running_count"]


class Chance(keras.random.SeedGenerator):  # type: ignore[misc] # keras has no types
    """Keeps the same state in all workers, as all variables are, and draws other seeds in each.

    The state is a variable, so a training goes on from a checkpoint as it would have gone on.
    """

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def next(self, ordered: bool = True) -> Any:
        """Answer two numbers: a key, which tells workers apart, and a running number."""
        drawn = super().next(ordered)
        return drawn + tf.constant([self._worker, 0], drawn.dtype)


class Tower(keras.Model):  # type: ignore[misc] # keras has no types
    """Histories to user vectors, and the articles' vectors; index 0 is padding or unknown."""

    article_vectors: Any
    """float32[articles, dimension]: the variable whose rows are searched."""
    dropping: Chance
    hiding: Chance
    region: Any
    """float32[regions + 1, dimension]; only where there are regions."""

    def __init__(self, settings: TowerSettings, name: str) -> None:
        super().__init__(name=name)
        self.settings = settings

    @abstractmethod
    def call(self, history: tf.Tensor, region: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Turn int32[B, 50], newest first, and int32[B] into float32[B, dimension]."""

    @abstractmethod
    def learn(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Turn a training batch into float32[n, dimension] and the int32[n] rows to be found."""

    def table(self, name: str, rows: int, initializer: Any) -> Any:
        """Make a variable with a vector in each row."""
        shape = (rows, self.settings.dimension)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def dropped(self, values: tf.Tensor, training: bool) -> tf.Tensor:
        """Leave out a share of the values, in training alone."""
        if not training or self.settings.dropout == 0:
            return values
        return keras.random.dropout(values, self.settings.dropout, seed=self.dropping)

    def region_embedding(self, region: tf.Tensor, training: bool) -> tf.Tensor:
        """Embed regions, zero for those unknown; training hides some."""
        given = tf.cast(region > 0, tf.float32)
        if training and self.settings.region_dropout > 0:
            chance = keras.random.uniform(tf.shape(given), seed=self.hiding)
            given *= tf.cast(chance >= self.settings.region_dropout, tf.float32)
        return tf.gather(self.region, region) * given[..., None]


def running_count(known: tf.Tensor) -> tf.Tensor:
    """Count the known views up to each place; a product, since XLA's cumsum is slow on CPUs."""
    up_to = np.triu(np.ones((HISTORY_LENGTH, HISTORY_LENGTH), np.float32))
    return tf.cast(tf.matmul(tf.cast(known, tf.float32), up_to), tf.int32)
