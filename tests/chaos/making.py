"""`python -m tests.chaos.making DIRECTORY [[RELEASE, VARIANT], ...]`: makes rotated releases.

The only part of the fault suite that loads TensorFlow. Variants other than `sound` are wrong in
ways that no checksum shows:
    swapped_ids         the index answers other articles' ids
    swapped_vocabulary  the model takes each article for another one
    wrong_dimension     the index holds vectors of another length
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from faiss_server.build import BuiltIndex, build_index, search_file, write_index
from pipeline.warmup import write_warmup
from releases.checksums import describe_files
from releases.layout import (
    ARTICLE_IDS_FILE,
    ARTICLE_VECTORS_FILE,
    ATTRIBUTES_FILE,
    INDEX_FILE,
    POPULAR_FILE,
    WARMUP_FILE,
    Part,
    part_path,
)
from releases.manifest import (
    DataWindow,
    GoldenHistory,
    GoldenQuery,
    IndexInfo,
    Manifest,
    ModelSignature,
    TensorSpec,
)
from tests.chaos.rotated import (
    ARTICLES,
    DIMENSION,
    FIRST_RELEASE,
    LIMIT,
    USERS,
    Catalogue,
    Variant,
    popular_ids,
    rotation,
    scale,
)

_TOPICS = 60
_HISTORY = 50
_GOLDEN = 16
_GOLDEN_TOP = 20
_SPREAD = 0.6
_RECENCY = 0.9
_RECALL = 0.9995  # single answers are judged, not their mean
_SIGNATURE = "serving_default"


class _Served(tf.Module):  # type: ignore[misc] # tensorflow has no types
    """Mean of the viewed articles' vectors, newer ones counting more, rotated."""

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
        nothing = np.zeros((1, DIMENSION), np.float32)
        self.vectors = tf.Variable(np.concatenate([nothing, vectors]), trainable=False)
        self.rotation = tf.Variable(turned, trainable=False)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, _HISTORY], tf.int64, name="history"),
            tf.TensorSpec([None], tf.int64, name="region"),
        ]
    )
    def serve(self, history: Any, region: Any) -> dict[str, Any]:
        rows = self.table.lookup(history)
        weights = tf.constant(_RECENCY ** np.arange(_HISTORY), tf.float32)
        vector = tf.einsum("bhd,h->bd", tf.gather(self.vectors, rows), weights)
        vector = tf.math.l2_normalize(vector, axis=1) @ self.rotation
        known = tf.reduce_sum(tf.cast(rows > 0, tf.int32), axis=1)
        return {"user_vector": vector, "known": known}


def main() -> None:
    directory, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "catalogue.npz"
    if not path.exists():
        _write_catalogue(path)
    catalogue = Catalogue.load(path)
    for release, variant in wanted:
        _make(directory / variant, release, variant, catalogue)


def _write_catalogue(path: Path) -> None:
    random = np.random.default_rng(1)
    ids = np.sort(random.choice(10**9, ARTICLES, replace=False)).astype(np.int64)
    topics = random.integers(_TOPICS, size=ARTICLES)
    centres = random.standard_normal((_TOPICS, DIMENSION))
    vectors = centres[topics] + _SPREAD * random.standard_normal((ARTICLES, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    histories = np.full((USERS, _HISTORY), -1, np.int64)
    for row in histories:
        of_topics = np.flatnonzero(np.isin(topics, random.choice(_TOPICS, 2, replace=False)))
        viewed = random.choice(of_topics, int(random.integers(5, _HISTORY + 1)), replace=False)
        row[: len(viewed)] = ids[viewed]
    users = _asked(_Served(ids, vectors, rotation(FIRST_RELEASE)), histories)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        article_ids=ids,
        article_vectors=vectors,
        histories=histories,
        user_vectors=users @ rotation(FIRST_RELEASE).T,
    )
    partial.rename(path)


def _asked(model: Any, histories: NDArray[np.int64]) -> NDArray[np.float32]:
    regions = np.full(len(histories), -1, np.int64)
    vectors: NDArray[np.float32] = model.serve(histories, regions)["user_vector"].numpy()
    return vectors


def _make(staging: Path, release: int, variant: Variant, catalogue: Catalogue) -> None:
    vectors = catalogue.articles_in(release)
    _write_model(staging, release, variant, catalogue)
    built = _build(vectors, catalogue, release)
    write_index(built, staging / part_path(Part.INDEX, release) / INDEX_FILE)
    _write_tables(staging, release, catalogue)
    _write_embeddings(staging, release, catalogue.article_ids, vectors)
    goldens = _goldens(staging, release, catalogue)
    _spoil_index(staging, release, variant, catalogue, vectors)
    manifest = _manifest(staging, release, built, catalogue, goldens)
    path = staging / "manifests" / f"{release}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(manifest.model_dump_json(indent=1))
    partial.rename(path)


def _write_model(staging: Path, release: int, variant: Variant, catalogue: Catalogue) -> None:
    vocabulary = catalogue.article_ids
    if variant == "swapped_vocabulary":
        vocabulary = np.random.default_rng(release).permutation(vocabulary)
    served = _Served(vocabulary, catalogue.article_vectors, rotation(release))
    home = staging / part_path(Part.MODEL, release)
    tf.saved_model.save(served, str(home), signatures={_SIGNATURE: served.serve})
    users = catalogue.histories[:16]
    write_warmup(home / WARMUP_FILE, users, np.full(len(users), -1, np.int64))


def _build(vectors: NDArray[np.float32], catalogue: Catalogue, release: int) -> BuiltIndex:
    users = catalogue.users_in(release)[:1000]
    return build_index(
        vectors, catalogue.article_ids, users, recall_target=_RECALL, k=LIMIT, spare=_HISTORY
    )


def _spoil_index(
    staging: Path,
    release: int,
    variant: Variant,
    catalogue: Catalogue,
    vectors: NDArray[np.float32],
) -> None:
    """Replace the index by a wrong one; golden queries are those of the right one."""
    users, ids = catalogue.users_in(release)[:100], catalogue.article_ids
    if variant == "swapped_ids":
        ids = np.random.default_rng(release).permutation(ids)
    elif variant == "wrong_dimension":
        half = DIMENSION // 2
        vectors, users = vectors[:, :half].copy(), users[:, :half].copy()
    else:
        return
    wrong = build_index(vectors, ids, users, k=LIMIT)
    write_index(wrong, staging / part_path(Part.INDEX, release) / INDEX_FILE)


def _write_tables(staging: Path, release: int, catalogue: Catalogue) -> None:
    home = staging / part_path(Part.INDEX, release)
    popular = popular_ids(release, catalogue.article_ids)
    np.savez(
        home / POPULAR_FILE,
        region_ids=np.full(len(popular), -1, np.int64),
        article_ids=popular,
        views=np.arange(len(popular), 0, -1, dtype=np.int64) * 1000,
    )
    np.savez(home / ATTRIBUTES_FILE, article_ids=catalogue.article_ids)


def _write_embeddings(
    staging: Path, release: int, ids: NDArray[np.int64], vectors: NDArray[np.float32]
) -> None:
    home = staging / part_path(Part.EMBEDDINGS, release)
    home.mkdir(parents=True, exist_ok=True)
    np.save(home / ARTICLE_IDS_FILE, ids)
    np.save(home / ARTICLE_VECTORS_FILE, vectors)


def _goldens(
    staging: Path, release: int, catalogue: Catalogue
) -> tuple[tuple[GoldenQuery, ...], tuple[GoldenHistory, ...]]:
    users = np.linspace(0, USERS - 1, _GOLDEN).astype(np.int64)
    vectors = catalogue.users_in(release)[users]
    index = staging / part_path(Part.INDEX, release) / INDEX_FILE
    ids, scores = search_file(index, vectors, _GOLDEN_TOP)
    queries = [
        GoldenQuery(vector=vector.tolist(), article_ids=found.tolist(), scores=best.tolist())
        for vector, found, best in zip(vectors, ids, scores, strict=True)
    ]
    histories = [
        GoldenHistory(
            history=catalogue.history(int(user)).tolist(), expected_article_ids=found.tolist()
        )
        for user, found in zip(users, ids, strict=True)
    ]
    return tuple(queries), tuple(histories)


def _manifest(
    staging: Path,
    release: int,
    built: BuiltIndex,
    catalogue: Catalogue,
    goldens: tuple[tuple[GoldenQuery, ...], tuple[GoldenHistory, ...]],
) -> Manifest:
    ids = catalogue.article_ids
    return Manifest(
        release=release,
        run_started="2027-01-15T08:00:00Z",
        data=DataWindow(first_event=1, last_event=2, cut_off=3),
        dimension=DIMENSION,
        article_count=len(ids),
        vocabulary_sha256=hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
        model_signature=_signature(),
        index=IndexInfo(
            type=built.type,
            lists=built.lists,
            nprobe=built.nprobe,
            recall_at_200=built.recall_at_200,
        ),
        offline_metrics={"scale": scale(release)},
        versions={"tensorflow-cpu": version("tensorflow-cpu")},
        golden_queries=goldens[0],
        golden_histories=goldens[1],
        files=describe_files(staging, release),
    )


def _signature() -> ModelSignature:
    return ModelSignature(
        inputs={
            "history": TensorSpec(dtype="int64", shape=(-1, _HISTORY)),
            "region": TensorSpec(dtype="int64", shape=(-1,)),
        },
        outputs={
            "user_vector": TensorSpec(dtype="float32", shape=(-1, DIMENSION)),
            "known": TensorSpec(dtype="int32", shape=(-1,)),
        },
    )


if __name__ == "__main__":
    main()
