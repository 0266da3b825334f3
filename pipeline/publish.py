"""The last step: the manifest, with what the pair must answer, and the release into the store."""

import hashlib
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import search_file
from pipeline.evaluate import Evaluation
from pipeline.export import SIGNATURE, ExportedModel, ServedTower
from pipeline.index import IndexedArticles
from pipeline.preprocess import PreparedArrays, PreparedData
from releases.checksums import describe_files
from releases.layout import HISTORY_LENGTH
from releases.manifest import (
    DataWindow,
    GoldenHistory,
    GoldenQuery,
    IndexInfo,
    Manifest,
    ModelSignature,
    TensorSpec,
)
from releases.publish import publish
from releases.rollout import Wait
from releases.store import ReleaseStore

__all__ = ["publish_release"]

_GOLDEN: Final = 16
_GOLDEN_TOP: Final = 20
_SEED: Final = 1
_LIBRARIES: Final = ("tensorflow-cpu", "keras", "faiss-cpu", "numpy", "duckdb", "recsys-serving")


def publish_release(
    exported: ExportedModel,
    indexed: IndexedArticles,
    evaluation: Evaluation,
    prepared: PreparedData,
    store: str,
) -> Manifest:
    """Describe the staged files, add golden queries and histories, and publish.

    Raises ReleaseExistsError when the store already has this release, and pydantic's
    ValidationError when the parts make no sound manifest.
    """
    queries, histories = _goldens(exported, indexed, prepared.load())
    manifest = Manifest(
        release=exported.release,
        run_started=datetime.fromtimestamp(exported.release, UTC).isoformat(),
        data=DataWindow(
            first_event=prepared.first_event,
            last_event=prepared.last_event,
            cut_off=prepared.cut_off,
        ),
        dimension=exported.dimension,
        article_count=exported.article_count,
        vocabulary_sha256=_vocabulary_sha256(exported.article_ids()),
        model_signature=_signature(exported.dimension),
        index=IndexInfo(
            type=indexed.type,
            lists=indexed.lists,
            nprobe=indexed.nprobe,
            recall_at_200=indexed.recall_at_200,
        ),
        offline_metrics=evaluation.offline_metrics(),
        versions={"python": platform.python_version()} | {n: version(n) for n in _LIBRARIES},
        golden_queries=queries,
        golden_histories=histories,
        files=describe_files(exported.staging, exported.release),
    )
    wait = Wait(on_hindrance=lambda why: print(f"publish waits: {why}", file=sys.stderr))
    publish(ReleaseStore(store), exported.staging, manifest, wait=wait)
    return manifest


def _goldens(
    exported: ExportedModel, indexed: IndexedArticles, arrays: PreparedArrays
) -> tuple[tuple[GoldenQuery, ...], tuple[GoldenHistory, ...]]:
    """Ask model and index together for a few users of whom the model knows something."""
    users = arrays.sample_known_users(_GOLDEN, _SEED)
    histories, regions = arrays.served_histories(users), arrays.target_regions[users]
    vectors, _ = ServedTower(exported.saved_model).user_vectors(histories, regions)
    ids, scores = search_file(indexed.index_file, vectors, _GOLDEN_TOP)
    queries, answers = [], []
    for row, (row_ids, row_scores) in enumerate(zip(ids, scores, strict=True)):
        # Fewer lists than needed were probed where the tail is -1.
        found = row_ids >= 0
        queries.append(_golden_query(vectors[row], row_ids[found], row_scores[found]))
        answers.append(_golden_history(histories[row], int(regions[row]), row_ids[found]))
    return tuple(queries), tuple(answers)


def _golden_query(
    vector: NDArray[np.float32], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> GoldenQuery:
    return GoldenQuery(
        vector=tuple(vector.tolist()),
        article_ids=tuple(ids.tolist()),
        scores=tuple(scores.tolist()),
    )


def _golden_history(
    history: NDArray[np.int64], region: int, ids: NDArray[np.int64]
) -> GoldenHistory:
    return GoldenHistory(
        history=tuple(history[history >= 0].tolist()),
        region_id=region if region >= 0 else None,
        expected_article_ids=tuple(ids.tolist()),
    )


def _vocabulary_sha256(article_ids: NDArray[np.int64]) -> str:
    return hashlib.sha256(article_ids.astype("<i8").tobytes()).hexdigest()


def _signature(dimension: int) -> ModelSignature:
    return ModelSignature(
        name=SIGNATURE,
        inputs={
            "history": TensorSpec(dtype="int64", shape=(-1, HISTORY_LENGTH)),
            "region": TensorSpec(dtype="int64", shape=(-1,)),
        },
        outputs={
            "user_vector": TensorSpec(dtype="float32", shape=(-1, dimension)),
            "known": TensorSpec(dtype="int32", shape=(-1,)),
        },
    )
