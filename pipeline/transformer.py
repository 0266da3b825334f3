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
        self.last_norm = _Norm(settings.dimension, name="last_norm")
        self.built = True

    def call(self, history: tf.Tensor, region: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Turn int32[B, 50], newest first, and int32[B] into float32[B, dimension]."""
        history = _known_first(history)
        may_see = _older_or_same(HISTORY_LENGTH)[None] & (history > 0)[:, None, :]
        hidden = self._embedded(history, training)
        for block in self.blocks[:-1]:
            hidden = block(hidden, may_see, asking=HISTORY_LENGTH, training=training)
        newest = self.blocks[-1](hidden, may_see, asking=1, training=training)
        return self._answer(newest, region, training)

    def learn(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Answer every place of every row: what came next after it is a label of its own."""
        article, owner = batch["article"], batch["owner"]
        length = article.shape[1]
        may_see = _older_or_same(length)[None] & (owner[:, :, None] == owner[:, None, :])
        hidden = self._embedded(article, training=True)
        for block in self.blocks:
            hidden = block(hidden, may_see, asking=length, training=True)
        region, label = (tf.reshape(batch[name], [-1]) for name in ("region", "label"))
        return self._answer(hidden, region, training=True), label

    def _embedded(self, article: tf.Tensor, training: bool) -> tf.Tensor:
        """Embed int32[B, length] into float32[B * length, dimension]."""
        article = tf.reshape(article, [-1])
        known = tf.cast(article > 0, tf.float32) * self.settings.dimension**0.5
        embedded = tf.gather(self.article_vectors, tf.maximum(article - 1, 0))
        return self.dropped(embedded * known[..., None], training)

    def _answer(self, hidden: tf.Tensor, region: tf.Tensor, training: bool) -> tf.Tensor:
        vectors = self.last_norm(hidden)
        if self.settings.region_count:
            vectors += self.region_embedding(region, training)
        return vectors


class _Block(keras.layers.Layer):  # type: ignore[misc] # keras has no types
    """Attention among the places of a row, then two layers for each place.

    Places are rows of one matrix, since dense layers over three dimensions work out shapes at each
    call, which took half of the time of a request.
    """

    def __init__(self, settings: TowerSettings, dropped: Any, name: str) -> None:
        super().__init__(name=name)
        width, self._heads, self._dropped = settings.dimension, settings.heads, dropped
        self._size = width // settings.heads
        self.attention_norm = _Norm(width, "attention_norm")
        self.queries = keras.layers.Dense(width, use_bias=False)
        self.keys_values = keras.layers.Dense(2 * width, use_bias=False)
        self.mixed = keras.layers.Dense(width)
        self.distance = self.add_weight(
            name="distance", shape=(settings.heads, HISTORY_LENGTH), initializer="zeros"
        )
        self.inner_norm = _Norm(width, "inner_norm")
        self.wide = keras.layers.Dense(4 * width, activation="relu")
        self.narrow = keras.layers.Dense(width)
        for layer in (self.queries, self.keys_values, self.mixed, self.wide):
            layer.build((None, width))
        self.narrow.build((None, 4 * width))
        self.built = True

    def call(
        self, hidden: tf.Tensor, may_see: tf.Tensor, asking: int, training: bool = False
    ) -> tf.Tensor:
        """Turn float32[B * length, width] into float32[B * asking, width], each row's first places.

        `may_see` bool[B or 1, length, length]: which places (last axis) each place looks at.
        """
        normed = self.attention_norm(hidden)
        asked, hidden = (_first_places(each, may_see.shape[1], asking) for each in (normed, hidden))
        mixed = self.mixed(self._attended(asked, normed, may_see[:, :asking]))
        hidden += self._dropped(mixed, training)
        inner = self.narrow(self.wide(self.inner_norm(hidden)))
        return hidden + self._dropped(inner, training)

    def _attended(self, asked: tf.Tensor, normed: tf.Tensor, may_see: tf.Tensor) -> tf.Tensor:
        asking, length = may_see.shape[1:]
        queries = tf.reshape(self.queries(asked), [-1, asking, self._heads, self._size])
        queries = tf.transpose(queries, [0, 2, 1, 3])
        both = tf.reshape(self.keys_values(normed), [-1, length, 2, self._heads, self._size])
        keys, values = tf.unstack(tf.transpose(both, [2, 0, 3, 1, 4]))
        scores = tf.matmul(queries, keys, transpose_b=True) * self._size**-0.5
        scores += tf.gather(self.distance, _distances(length)[:asking], axis=1)
        weights = tf.nn.softmax(tf.where(may_see[:, None], scores, _FORBIDDEN))
        together = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return tf.reshape(together, [-1, self._heads * self._size])


def _first_places(places: tf.Tensor, length: int, asking: int) -> tf.Tensor:
    if asking == length:
        return places
    width = places.shape[-1]
    return tf.reshape(tf.reshape(places, [-1, length, width])[:, :asking], [-1, width])


class _Norm(keras.layers.Layer):  # type: ignore[misc] # keras has no types
    """RMSNorm: half the operations of layer normalisation, which is what serving spends time on."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__(name=name)
        self.gain = self.add_weight(name="gain", shape=(width,), initializer="ones")
        self.built = True

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """Scale each vector to a mean square of one."""
        size = tf.reduce_mean(tf.square(values), axis=-1, keepdims=True)
        return values * tf.math.rsqrt(size + _TINY) * self.gain


def _older_or_same(length: int) -> tf.Tensor:
    """Tell which places each place may look at: newest come first."""
    return tf.constant(np.triu(np.ones((length, length), bool)))


def _distances(length: int) -> tf.Tensor:
    places = np.arange(length)
    return tf.constant(np.clip(places[None] - places[:, None], 0, HISTORY_LENGTH - 1), tf.int32)


def _known_first(history: tf.Tensor) -> tf.Tensor:
    """Close the gaps that unknown views leave, without changing the order of the others."""
    unknown = tf.cast(history == 0, tf.int32)
    return tf.gather(history, tf.argsort(unknown, stable=True), batch_dims=1)
