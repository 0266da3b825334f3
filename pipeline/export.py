"""The fifth step: the SavedModel that serves, and the article vectors, outside of Keras."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.model import UserTower
from pipeline.prepared import PreparedData
from pipeline.records import StepRecord
from pipeline.train import TrainedModel, load_tower
from pipeline.transform import ARTICLE_INDICES, ARTICLES, REGION_INDICES, REGIONS
from pipeline.warmup import write_warmup
from releases.layout import (
    ARTICLE_IDS_FILE,
    ARTICLE_VECTORS_FILE,
    HISTORY_LENGTH,
    WARMUP_FILE,
    Part,
    part_path,
)

__all__ = ["SIGNATURE", "ExportedModel", "ServedTower", "export"]

SIGNATURE: Final = "serving_default"


@dataclass(frozen=True)
class ExportedModel(StepRecord):
    """The parts of a release that come from the model; the folder is laid out as a store."""

    release: int
    dimension: int
    article_count: int

    @property
    def saved_model(self) -> Path:
        """The SavedModel's folder."""
        return self.directory / part_path(Part.MODEL, self.release)

    @property
    def embeddings(self) -> Path:
        """The folder of the article ids and vectors."""
        return self.directory / part_path(Part.EMBEDDINGS, self.release)

    def article_ids(self) -> NDArray[np.int64]:
        """Read the ids, int64[articles]."""
        ids: NDArray[np.int64] = np.load(self.embeddings / ARTICLE_IDS_FILE)
        return ids

    def article_vectors(self) -> NDArray[np.float32]:
        """Read the vectors, float32[articles, dimension]."""
        vectors: NDArray[np.float32] = np.load(self.embeddings / ARTICLE_VECTORS_FILE)
        return vectors


class ServedTower:
    """The exported SavedModel, called as the model server calls it."""

    def __init__(self, saved_model: Path) -> None:
        # The loaded object owns the variables and tables: it must outlive the signature.
        self._model = tf.saved_model.load(str(saved_model))
        self._signature = self._model.signatures[SIGNATURE]

    def user_vectors(
        self, histories: NDArray[np.int64], regions: NDArray[np.int64], batch_size: int = 1024
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Turn raw histories int64[n, 50] and regions int64[n] into vectors and known counts."""
        answers = [
            self._signature(
                history=tf.constant(histories[begin : begin + batch_size]),
                region=tf.constant(regions[begin : begin + batch_size]),
            )
            for begin in range(0, len(histories), batch_size)
        ]
        vectors = np.concatenate([answer["user_vector"].numpy() for answer in answers])
        return vectors, np.concatenate([answer["known"].numpy() for answer in answers])


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

    def __init__(self, tower: UserTower, graph: Any) -> None:
        super().__init__()
        self.weights = [weight.value for weight in tower.weights]
        self.graph = graph
        self.serve = _serving_function(tower, graph)


def _serving_function(tower: UserTower, graph: Any) -> Any:
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
