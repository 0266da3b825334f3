"""The parts of a release that come from the model: where they are, and how they are asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline._quiet import load_tensorflow
from pipeline.records import StepRecord
from releases.layout import ARTICLE_IDS_FILE, ARTICLE_VECTORS_FILE, Part, part_path

__all__ = ["SIGNATURE", "ExportedModel", "ServedTower"]

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
        tf = self._tf = load_tensorflow()
        # The loaded object owns the variables and tables: it must outlive the signature.
        self._model = tf.saved_model.load(str(saved_model))
        self._signature = self._model.signatures[SIGNATURE]

    def user_vectors(
        self, histories: NDArray[np.int64], regions: NDArray[np.int64], batch_size: int = 1024
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Turn raw histories int64[n, 50] and regions int64[n] into vectors and known counts."""
        answers = [
            self._signature(
                history=self._tf.constant(histories[begin : begin + batch_size]),
                region=self._tf.constant(regions[begin : begin + batch_size]),
            )
            for begin in range(0, len(histories), batch_size)
        ]
        vectors = np.concatenate([answer["user_vector"].numpy() for answer in answers])
        return vectors, np.concatenate([answer["known"].numpy() for answer in answers])
