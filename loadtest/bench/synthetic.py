"""Releases without training: real files of every kind around article vectors that are given.

Imports TensorFlow; run it in a process of its own.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from faiss_server.build import BuiltIndex, search_file
from loadtest.bench.catalogue import RECENCY
from pipeline.warmup import write_warmup
from releases.checksums import describe_files
from releases.layout import (
    ARTICLE_IDS_FILE,
    ARTICLE_VECTORS_FILE,
    ATTRIBUTES_FILE,
    HISTORY_LENGTH,
    POPULAR_FILE,
    WARMUP_FILE,
    Part,
    part_path,
)
from releases.manifest import (
    DataWindow,
    GoldenHistory,
    GoldenQuery,
    Manifest,
    ModelSignature,
    TensorSpec,
)

__all__ = [
    "Goldens",
    "UserTower",
    "describe",
    "goldens_of",
    "write_embeddings",
    "write_model",
    "write_tables",
]

_GOLDEN: Final = 16
_GOLDEN_TOP: Final = 20
_WARMUP_USERS: Final = 16
_SIGNATURE: Final = "serving_default"
_VIEWS: Final = 1000


class UserTower(tf.Module):  # type: ignore[misc] # tensorflow has no types
    """Mean of the viewed articles' vectors, newer ones counting more, turned by a matrix.

    `vocabulary` int64[v] are the ids of `vectors` float32[v, d]; `turned` is float32[d, d].
    """

    def __init__(
        self,
        vocabulary: NDArray[np.int64],
        vectors: NDArray[np.float32],
        turned: NDArray[np.float32],
    ) -> None:
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(vocabulary), tf.range(1, len(vocabulary) + 1)
            ),
            default_value=0,
        )
        nothing = np.zeros((1, vectors.shape[1]), np.float32)
        self.vectors = tf.Variable(np.concatenate([nothing, vectors]), trainable=False)
        self.turned = tf.Variable(turned, trainable=False)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None, HISTORY_LENGTH], tf.int64, name="history"),
            tf.TensorSpec([None], tf.int64, name="region"),
        ]
    )
    def serve(self, history: Any, region: Any) -> dict[str, Any]:  # noqa: ARG002 - the signature's
        """Answer user_vector float32[B, d] and known int32[B]."""
        rows = self.table.lookup(history)
        weights = tf.constant(RECENCY ** np.arange(HISTORY_LENGTH), tf.float32)
        vector = tf.einsum("bhd,h->bd", tf.gather(self.vectors, rows), weights)
        vector = tf.math.l2_normalize(vector, axis=1) @ self.turned
        known = tf.reduce_sum(tf.cast(rows > 0, tf.int32), axis=1)
        return {"user_vector": vector, "known": known}

    def asked(self, histories: NDArray[np.int64]) -> NDArray[np.float32]:
        """Answer the user vectors of histories int64[n, 50] without a region."""
        regions = np.full(len(histories), -1, np.int64)
        vectors: NDArray[np.float32] = self.serve(histories, regions)["user_vector"].numpy()
        return vectors


def write_model(
    staging: Path, release: int, tower: UserTower, histories: NDArray[np.int64]
) -> None:
    """Write the SavedModel, with some of the histories as warm-up requests."""
    home = staging / part_path(Part.MODEL, release)
    tf.saved_model.save(tower, str(home), signatures={_SIGNATURE: tower.serve})
    users = histories[:_WARMUP_USERS]
    write_warmup(home / WARMUP_FILE, users, np.full(len(users), -1, np.int64))


def write_tables(
    staging: Path, release: int, article_ids: NDArray[np.int64], popular: NDArray[np.int64]
) -> None:
    """Write the popular articles, one list for everywhere, and a table without attributes."""
    home = staging / part_path(Part.INDEX, release)
    np.savez(
        home / POPULAR_FILE,
        region_ids=np.full(len(popular), -1, np.int64),
        article_ids=popular,
        views=np.arange(len(popular), 0, -1, dtype=np.int64) * _VIEWS,
    )
    np.savez(home / ATTRIBUTES_FILE, article_ids=article_ids)


def write_embeddings(
    staging: Path, release: int, article_ids: NDArray[np.int64], vectors: NDArray[np.float32]
) -> None:
    """Write ids and vectors of all articles."""
    home = staging / part_path(Part.EMBEDDINGS, release)
    home.mkdir(parents=True, exist_ok=True)
    np.save(home / ARTICLE_IDS_FILE, article_ids)
    np.save(home / ARTICLE_VECTORS_FILE, vectors)


@dataclass(frozen=True)
class Goldens:
    """What a release must answer."""

    queries: tuple[GoldenQuery, ...]
    histories: tuple[GoldenHistory, ...]


def goldens_of(index: Path, histories: NDArray[np.int64], users: NDArray[np.float32]) -> Goldens:
    """Note what the written index answers to some users: `users` float32[n, d] are the vectors of
    `histories` int64[n, 50].
    """
    chosen = np.linspace(0, len(users) - 1, _GOLDEN).astype(np.int64)
    ids, scores = search_file(index, users[chosen], _GOLDEN_TOP)
    return Goldens(
        tuple(
            GoldenQuery(vector=vector.tolist(), article_ids=found.tolist(), scores=best.tolist())
            for vector, found, best in zip(users[chosen], ids, scores, strict=True)
        ),
        tuple(
            GoldenHistory(history=viewed[viewed >= 0].tolist(), expected_article_ids=found.tolist())
            for viewed, found in zip(histories[chosen], ids, strict=True)
        ),
    )


def describe(
    staging: Path,
    release: int,
    built: BuiltIndex,
    article_ids: NDArray[np.int64],
    goldens: Goldens,
    offline_metrics: Mapping[str, float],
) -> Manifest:
    """Describe the files below `staging`."""
    dimension = built.index.d
    return Manifest(
        release=release,
        run_started="2027-01-15T08:00:00Z",
        data=DataWindow(first_event=1, last_event=2, cut_off=3),
        dimension=dimension,
        article_count=len(article_ids),
        vocabulary_sha256=hashlib.sha256(article_ids.astype("<i8").tobytes()).hexdigest(),
        model_signature=_signature(dimension),
        index=built.info,
        offline_metrics=dict(offline_metrics),
        versions={"tensorflow-cpu": version("tensorflow-cpu")},
        golden_queries=goldens.queries,
        golden_histories=goldens.histories,
        files=describe_files(staging, release),
    )


def _signature(dimension: int) -> ModelSignature:
    return ModelSignature(
        inputs={
            "history": TensorSpec(dtype="int64", shape=(-1, HISTORY_LENGTH)),
            "region": TensorSpec(dtype="int64", shape=(-1,)),
        },
        outputs={
            "user_vector": TensorSpec(dtype="float32", shape=(-1, dimension)),
            "known": TensorSpec(dtype="int32", shape=(-1,)),
        },
    )
