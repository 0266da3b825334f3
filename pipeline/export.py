"""The fifth step: the SavedModel that serves, and the article vectors, outside of Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

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
    trained: TrainedModel,
    prepared: PreparedData,
    directory: Path,
    release: int,
    *,
    popularity_debias: float = 0.0,
) -> ExportedModel:
    """Write SavedModel, warm-up records, ids and vectors.

    `popularity_debias`: by how many times the logarithm of its views an article's score is
    lowered. Where it is not 0 article vectors have one value more, which user vectors multiply
    by 1.
    """
    tower, sample = load_tower(trained), prepared.sample()
    articles, vectors = prepared.graph.articles(), tower.article_vectors.numpy()
    if popularity_debias:
        bias = -popularity_debias * _log_popularity(articles.counts)
        vectors = np.concatenate([vectors, bias[:, None]], axis=1)
    exported = ExportedModel(directory, release, vectors.shape[1], prepared.article_count)
    served = _Served(tower, prepared.graph.load(), with_one=popularity_debias != 0)
    tf.saved_model.save(served, str(exported.saved_model), signatures={SIGNATURE: served.serve})
    users = np.arange(min(16, len(sample.targets)))
    write_warmup(
        exported.saved_model / WARMUP_FILE,
        sample.served_histories(users),
        sample.target_regions[users],
    )
    exported.embeddings.mkdir(parents=True, exist_ok=True)
    np.save(exported.embeddings / ARTICLE_IDS_FILE, articles.ids)
    np.save(
        exported.embeddings / ARTICLE_VECTORS_FILE, np.ascontiguousarray(vectors, dtype=np.float32)
    )
    return exported


def _log_popularity(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Answer the logarithms of views about their mean: what all have alike would only be length."""
    logarithms = np.log(counts.astype(np.float64))
    centred: NDArray[np.float64] = logarithms - logarithms.mean()
    return centred


class _Served(tf.Module):  # type: ignore[misc] # tensorflow has no types
    """Raw ids in, user vector out; weights and the transform graph travel inside, Keras does not.

    The graph is the very one that made the training examples, with its vocabularies.
    """

    def __init__(self, tower: Tower, graph: Any, *, with_one: bool) -> None:
        super().__init__()
        self.weights = [weight.value for weight in tower.weights]
        self.graph = graph
        self.serve = _serving_function(tower, graph, with_one=with_one)


def _serving_function(tower: Tower, graph: Any, *, with_one: bool) -> Any:
    history = tf.TensorSpec([None, HISTORY_LENGTH], tf.int64, name="history")
    region = tf.TensorSpec([None], tf.int64, name="region")

    @tf.function(input_signature=[history, region])  # type: ignore[untyped-decorator]
    def serve(history: tf.Tensor, region: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed = graph.transform_fn(
            {
                ARTICLES: _in_rows(tf.reshape(history, [-1]), HISTORY_LENGTH),
                REGIONS: _in_rows(region, 1),
            }
        )
        indices = tf.reshape(transformed[ARTICLE_INDICES].flat_values, tf.shape(history))
        vector = tower(indices, transformed[REGION_INDICES].flat_values, training=False)
        if with_one:
            vector = tf.pad(vector, [[0, 0], [0, 1]], constant_values=1.0)
        known = tf.reduce_sum(tf.cast(indices > 0, tf.int32), axis=1)
        return {"user_vector": vector, "known": known}

    return serve


def _in_rows(values: tf.Tensor, length: int) -> tf.RaggedTensor:
    # What validation asks is so by the signature, and its branches are a tenth of a call.
    return tf.RaggedTensor.from_uniform_row_length(values, length, validate=False)
