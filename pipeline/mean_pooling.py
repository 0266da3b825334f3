"""The user tower by mean pooling: YouTube's candidate generator, in Keras."""

import keras
import tensorflow as tf

from pipeline.options import TowerSettings
from pipeline.tower import Chance, Tower, running_count
from releases.layout import HISTORY_LENGTH

__all__ = ["MeanPoolingTower"]


class MeanPoolingTower(Tower):
    """History and region indices to a user vector; index 0 is padding or unknown.

    The input of the ReLU layers is the weighted mean of the viewed articles' embeddings, with one
    learnt weight for each recency rank, beside the embedding of the newest view and of the
    region. Unknown views are passed over: the ranks count known views only, so a history with
    unknown ids is answered as if they were not in it.
    """

    def __init__(self, settings: TowerSettings, worker: int = 0) -> None:
        """`worker`: its place among those that learn together; each draws masks of its own."""
        super().__init__(settings, name="mean_pooling_tower")
        self.dropping = Chance(worker)
        self.hidden = [
            keras.layers.Dense(units, activation="relu") for units in settings.hidden_units
        ]
        self.to_vector = keras.layers.Dense(settings.dimension, name="user_vector")
        self.hiding = Chance(worker)
        self._make_tables()
        self._build_layers()
        self.built = True

    def _make_tables(self) -> None:
        small = keras.initializers.RandomNormal(stddev=0.05)
        articles = self.settings.article_count
        self.viewed = self.table("viewed", articles + 1, small)
        self.article_vectors = self.table("article_vectors", articles, small)
        if self.settings.region_count:
            self.region = self.table("region", self.settings.region_count + 1, small)
        self.recency = self.add_weight(name="recency", shape=(HISTORY_LENGTH,), initializer="zeros")

    def _build_layers(self) -> None:
        width = self.settings.dimension * (3 if self.settings.region_count else 2)
        for layer in [*self.hidden, self.to_vector]:
            layer.build((None, width))
            width = layer.units

    def call(self, history: tf.Tensor, region: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Turn int32[B, 50] and int32[B] into float32[B, dimension]."""
        known = history > 0
        rank = running_count(known)
        embedded = tf.gather(self.viewed, history)
        newest = tf.cast(known & (rank == 1), tf.float32)
        parts = [
            tf.reduce_sum(self._weights(known, rank, training)[..., None] * embedded, axis=1),
            tf.reduce_sum(newest[..., None] * embedded, axis=1),
        ]
        if self.settings.region_count:
            parts.append(self.region_embedding(region, training))
        hidden = self.dropped(tf.concat(parts, axis=1), training)
        for layer in self.hidden:
            hidden = self.dropped(layer(hidden), training)
        return self.to_vector(hidden)

    def learn(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Answer each example; its label is the view that came."""
        return self(batch["history"], batch["region"], training=True), batch["label"]

    def _weights(self, known: tf.Tensor, rank: tf.Tensor, training: bool) -> tf.Tensor:
        kept = tf.cast(known, tf.float32)
        if training and self.settings.history_dropout > 0:
            chance = keras.random.uniform(tf.shape(kept), seed=self.hiding)
            kept *= tf.cast(chance >= self.settings.history_dropout, tf.float32)
        weights = tf.exp(tf.gather(self.recency, tf.maximum(rank - 1, 0))) * kept
        return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))
