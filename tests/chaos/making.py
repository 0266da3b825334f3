"""`python -m tests.chaos.making DIRECTORY [[RELEASE, VARIANT], ...]`: makes rotated releases.

The only part of the fault suite that loads TensorFlow. Variants other than `sound` are wrong in
ways that no checksum shows:
    swapped_ids         the index answers other articles' ids
    swapped_vocabulary  the model takes each article for another one
    wrong_dimension     the index holds vectors of another length
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import BuiltIndex, build_index, write_index
from loadtest.bench.synthetic import (
    UserTower,
    describe,
    goldens_of,
    write_embeddings,
    write_model,
    write_tables,
)
from releases.layout import HISTORY_LENGTH, INDEX_FILE, Part, part_path
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
_SPREAD = 0.6
_RECALL = 0.9995  # single answers are judged, not their mean


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
    histories = np.full((USERS, HISTORY_LENGTH), -1, np.int64)
    for row in histories:
        of_topics = np.flatnonzero(np.isin(topics, random.choice(_TOPICS, 2, replace=False)))
        viewed = random.choice(
            of_topics, int(random.integers(5, HISTORY_LENGTH + 1)), replace=False
        )
        row[: len(viewed)] = ids[viewed]
    users = UserTower(ids, vectors, rotation(FIRST_RELEASE)).asked(histories)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        article_ids=ids,
        article_vectors=vectors,
        histories=histories,
        user_vectors=users @ rotation(FIRST_RELEASE).T,
    )
    partial.rename(path)


def _make(staging: Path, release: int, variant: Variant, catalogue: Catalogue) -> None:
    ids, vectors = catalogue.article_ids, catalogue.articles_in(release)
    users = catalogue.users_in(release)
    write_model(staging, release, _tower(release, variant, catalogue), catalogue.histories)
    built = _build(vectors, catalogue, release)
    index = staging / part_path(Part.INDEX, release) / INDEX_FILE
    write_index(built, index)
    write_tables(staging, release, ids, popular_ids(release, ids))
    write_embeddings(staging, release, ids, vectors)
    goldens = goldens_of(index, catalogue.histories, users)
    _spoil_index(index, release, variant, catalogue, vectors)
    metrics = {"scale": scale(release)}
    manifest = describe(staging, release, built, ids, goldens, metrics)
    path = staging / "manifests" / f"{release}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(manifest.model_dump_json(indent=1))
    partial.rename(path)


def _tower(release: int, variant: Variant, catalogue: Catalogue) -> UserTower:
    vocabulary = catalogue.article_ids
    if variant == "swapped_vocabulary":
        vocabulary = np.random.default_rng(release).permutation(vocabulary)
    return UserTower(vocabulary, catalogue.article_vectors, rotation(release))


def _build(vectors: NDArray[np.float32], catalogue: Catalogue, release: int) -> BuiltIndex:
    users = catalogue.users_in(release)[:1000]
    return build_index(
        vectors, catalogue.article_ids, users, recall_target=_RECALL, k=LIMIT, spare=HISTORY_LENGTH
    )


def _spoil_index(
    path: Path,
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
    write_index(wrong, path)


if __name__ == "__main__":
    main()
