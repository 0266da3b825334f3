"""The user tower as a causal transformer over the last views (SASRec), in Keras."""

from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from pipeline.options import TowerSettings
from pipeline.tower import Chance, Tower
from releases.layout import HISTORY_LENGTH

__all__ = ["TransformerTower"]

_FORBIDDEN: Final = np.float32(-1e9)
_TINY: Final = 1e-6


class TransformerTower(Tower):
    """Each view looks at itself and at older ones; the newest one's answer is the user's vector.

    Views are told apart by how far they lie apart, not by their place: one learnt number for each
    head and distance, added to what attention compares. So the answer is the same wherever in a
    row of the training a history lies, and however short it is. Unknown views are passed over.
    Articles are embedded by the very vectors they are found by. A region, the request's, is added
    at the end. Layers are normalised on their way in (pre-LN).
    """

    def __init__(self, settings: TowerSettings, worker: int = 0) -> None:
        """`worker`: its place among those that learn together; each draws masks of its own."""
        super().__init__(settings, name="transformer_tower")
        self.dropping = Chance(worker)
        self.hiding = Chance(worker)
        small = keras.initializers.RandomNormal(stddev=0.05)
        self.article_vectors = self.table("article_vectors", settings.article_count, small)
        if settings.region_count:
            self.region = self.table("region", settings.region_count + 1, small)
        self.blocks = [
            _Block(settings, self.dropped, name=f"block_{number}")
            for number in range(settings.layers)
        ]
        self.gain = self.add_weight(name="gain", shape=(settings.dimension,), initializer="ones")
        self.built = True

    def call(self, history: tf.Tensor, region: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Turn int32[B, 50], newest first, and int32[B] into float32[B, dimension]."""
        history = _known_first(history)
        may_see = _older_or_same(HISTORY_LENGTH)[None] & (history > 0)[:, None, :]
        barred = _barred(may_see)
        hidden = self._embedded(history, training)
        for block in self.blocks[:-1]:
            hidden = block(hidden, barred, training=training)
        newest = self.blocks[-1](hidden, barred, newest_only=True, training=training)
        return self._answer(newest, region, training)

    def learn(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Answer every place of every row: what came next after it is a label of its own."""
        article, owner = batch["article"], batch["owner"]
        may_see = _older_or_same(article.shape[1])[None]
        barred = _barred(may_see & (owner[:, :, None] == owner[:, None, :]))
        hidden = self._embedded(article, training=True)
        for block in self.blocks:
            hidden = block(hidden, barred, training=True)
        region, label = (tf.reshape(batch[name], [-1]) for name in ("region", "label"))
        return self._answer(hidden, region, training=True), label

    def _embedded(self, article: tf.Tensor, training: bool) -> tf.Tensor:
        """Embed int32[B, length] into float32[B * length, dimension]."""
        # What stands for an unknown view is any article: nobody looks at it.
        rows = tf.maximum(tf.reshape(article, [-1]) - 1, 0)
        embedded = tf.gather(self.article_vectors, rows) * self.settings.dimension**0.5
        return self.dropped(embedded, training)

    def _answer(self, hidden: tf.Tensor, region: tf.Tensor, training: bool) -> tf.Tensor:
        vectors = _normed(hidden) * self.gain
        if self.settings.region_count:
            vectors += self.region_embedding(region, training)
        return vectors


class _Block(keras.layers.Layer):  # type: ignore[misc] # keras has no types
    """Attention among the places of a row, then two layers for each place.

    A request of one user is some hundred small operations, whose number is what takes time. So
    places are rows of one matrix (dense layers over three dimensions work out shapes at each call),
    norms have no gain and scores no scale of their own (the layers after and before them learn it).
    """

    def __init__(self, settings: TowerSettings, dropped: Any, name: str) -> None:
        super().__init__(name=name)
        width, self._heads, self._dropped = settings.dimension, settings.heads, dropped
        self._size = width // settings.heads
        # Scores begin as small as those of attention that divides them by the root of the size.
        narrow = keras.initializers.VarianceScaling(1 / self._size, "fan_avg", "uniform")
        self.queries = keras.layers.Dense(width, use_bias=False, kernel_initializer=narrow)
        self.keys_values = keras.layers.Dense(2 * width, use_bias=False)
        self.mixed = keras.layers.Dense(width)
        self.distance = self.add_weight(
            name="distance", shape=(settings.heads, HISTORY_LENGTH + 1), initializer="zeros"
        )
        self.wide = keras.layers.Dense(4 * width, activation="relu")
        self.narrow = keras.layers.Dense(width)
        for layer in (self.queries, self.keys_values, self.mixed, self.wide):
            layer.build((None, width))
        self.narrow.build((None, 4 * width))
        self.built = True

    def call(
        self,
        hidden: tf.Tensor,
        barred: tf.Tensor,
        newest_only: bool = False,
        training: bool = False,
    ) -> tf.Tensor:
        """Turn float32[B * length, width] into as much, or into float32[B, width] of the newest.

        `barred` float32[B, 1, length, length] is added to what each place (third axis) compares.
        """
        normed, length = _normed(hidden), barred.shape[2]
        asked, asking = normed, length
        if newest_only:
            asked, hidden = (_first_of_each(each, length) for each in (normed, hidden))
            barred, asking = barred[:, :, :1], 1
        queries = tf.reshape(self.queries(asked), [-1, asking, self._heads, self._size])
        both = tf.reshape(self.keys_values(normed), [-1, length, 2, self._heads, self._size])
        keys, values = tf.unstack(tf.transpose(both, [2, 0, 3, 1, 4]))
        scores = tf.matmul(tf.transpose(queries, [0, 2, 1, 3]), keys, transpose_b=True)
        if newest_only:
            scores += self.distance[:, None, :length]
        else:
            scores += _by_distance(self.distance[:, : length + 1], length)
        together = tf.matmul(tf.nn.softmax(scores + barred), values)
        together = tf.reshape(tf.transpose(together, [0, 2, 1, 3]), [-1, self._heads * self._size])
        hidden += self._dropped(self.mixed(together), training)
        return hidden + self._dropped(self.narrow(self.wide(_normed(hidden))), training)


def _normed(values: tf.Tensor) -> tf.Tensor:
    """Scale each vector to a mean square of one (RMSNorm)."""
    size = tf.reduce_mean(tf.square(values), axis=-1, keepdims=True)
    return values * tf.math.rsqrt(size + _TINY)


def _first_of_each(places: tf.Tensor, length: int) -> tf.Tensor:
    width = places.shape[-1]
    return tf.reshape(places, [-1, length, width])[:, 0]


def _barred(may_see: tf.Tensor) -> tf.Tensor:
    """Turn bool[B, length, length] into what keeps places from seeing others when it is added."""
    return tf.where(may_see, 0.0, _FORBIDDEN)[:, None]


def _older_or_same(length: int) -> tf.Tensor:
    """Tell which places each place may look at: newest come first."""
    return tf.constant(np.triu(np.ones((length, length), bool)))


def _by_distance(numbers: tf.Tensor, length: int) -> tf.Tensor:
    """Lay out float32[heads, length + 1] as [heads, length, length], by how far places lie apart.

    The numbers end to end, cut every `length`, begin one earlier in each row: place i has number
    j - i for place j. What lands before i is barred anyway. A gather takes ten times as long.
    """
    laid = tf.tile(numbers, [1, length])[:, : length * length]
    return tf.reshape(laid, [-1, length, length])


def _known_first(history: tf.Tensor) -> tf.Tensor:
    """Close the gaps that unknown views leave, without changing the order of the others."""
    unknown = tf.cast(history == 0, tf.int32)
    return tf.gather(history, tf.argsort(unknown, stable=True), batch_dims=1)
