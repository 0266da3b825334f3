"""The fifth step: the SavedModel that serves, and the article vectors, outside of Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.exported import SIGNATURE, ExportedModel
from pipeline.prepared import PreparedData
from pipeline.tower import Tower
from pipeline.train import TrainedModel, load_tower
from pipeline.transform import ARTICLE_INDICES, ARTICLES, REGION_INDICES, REGIONS
from pipeline.warmup import write_warmup
from releases.layout import (
    ARTICLE_IDS_FILE,
    ARTICLE_VECTORS_FILE,
    HISTORY_LENGTH,
    WARMUP_FILE,
)

__all__ = ["export"]


def export(
    trained: TrainedModel, prepared: PreparedData, directory: Path, release: int
) -> ExportedModel:
    """Write SavedModel, warm-up records, ids and vectors."""
    tower, sample = load_tower(trained), prepared.sample()
    exported = ExportedModel(directory, release, trained.tower.dimension, prepared.article_count)
    served = _Served(tower, prepared.graph.load())
    tf.saved_model.save(served, str(exported.saved_model), signatures={SIGNATURE: served.serve})
    users = np.arange(min(16, len(sample.targets)))
    write_warmup(
        exported.saved_model / WARMUP_FILE,
        sample.served_histories(users),
        sample.target_regions[users],
    )
    exported.embeddings.mkdir(parents=True, exist_ok=True)
    vectors = np.ascontiguousarray(tower.article_vectors.numpy(), dtype=np.float32)
    np.save(exported.embeddings / ARTICLE_IDS_FILE, prepared.graph.articles().ids)
    np.save(exported.embeddings / ARTICLE_VECTORS_FILE, vectors)
    return exported


class _Served(tf.Module):  # type: ignore[misc] # tensorflow has no types
    """Raw ids in, user vector out; weights and the transform graph travel inside, Keras does not.

    The graph is the very one that made the training examples, with its vocabularies.
    """

    def __init__(self, tower: Tower, graph: Any) -> None:
        super().__init__()
        self.weights = [weight.value for weight in tower.weights]
        self.graph = graph
        self.serve = _serving_function(tower, graph)


def _serving_function(tower: Tower, graph: Any) -> Any:
    history = tf.TensorSpec([None, HISTORY_LENGTH], tf.int64, name="history")
    region = tf.TensorSpec([None], tf.int64, name="region")

    @tf.function(input_signature=[history, region])  # type: ignore[untyped-decorator]
    def serve(history: tf.Tensor, region: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed = graph.transform_fn(
            {
                ARTICLES: tf.RaggedTensor.from_uniform_row_length(
                    tf.reshape(history, [-1]), HISTORY_LENGTH
                ),
                REGIONS: tf.RaggedTensor.from_uniform_row_length(region, 1),
            }
        )
        indices = tf.reshape(transformed[ARTICLE_INDICES].flat_values, tf.shape(history))
        vector = tower(indices, transformed[REGION_INDICES].flat_values, training=False)
        known = tf.reduce_sum(tf.cast(indices > 0, tf.int32), axis=1)
        return {"user_vector": vector, "known": known}

    return serve
