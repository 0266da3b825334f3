"""`python -m tests.explorer.making STORE RELEASE...`: publishes small releases that differ.

Each has the same articles in places that moved somewhat, so that a user's candidates in one are
other ones, in another order, than in the next, but not all. Loads TensorFlow.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from faiss_server.build import build_index, write_index
from loadtest.bench.synthetic import (
    UserTower,
    describe,
    goldens_of,
    write_embeddings,
    write_model,
    write_tables,
)
from releases.layout import HISTORY_LENGTH, INDEX_FILE, Part, part_path
from releases.publish import publish
from releases.store import ReleaseStore

ARTICLES, DIMENSION, USERS, TOPICS = 1_500, 16, 300, 30
FIRST_ARTICLE = 1_000
_MOVED = 0.08


def main() -> None:
    store, releases = ReleaseStore(sys.argv[1]), [int(release) for release in sys.argv[2:]]
    for release in releases:
        with tempfile.TemporaryDirectory() as staging:
            make(store, Path(staging), release)


def make(store: ReleaseStore, staging: Path, release: int) -> None:
    random = np.random.default_rng(1)
    ids = FIRST_ARTICLE + np.arange(ARTICLES, dtype=np.int64)
    vectors = random.standard_normal((TOPICS, DIMENSION))[ids % TOPICS]
    vectors += 0.5 * random.standard_normal(vectors.shape)
    histories = random.choice(ids, (USERS, HISTORY_LENGTH))
    vectors += _MOVED * np.random.default_rng(release).standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    tower = UserTower(ids, vectors, np.eye(DIMENSION, dtype=np.float32))
    users = tower.asked(histories)
    write_model(staging, release, tower, histories)
    built = build_index(vectors, ids, users, k=200)
    index = staging / part_path(Part.INDEX, release) / INDEX_FILE
    write_index(built, index)
    write_tables(staging, release, ids, ids[:500])
    write_embeddings(staging, release, ids, vectors)
    goldens = goldens_of(index, histories, users)
    publish(store, staging, describe(staging, release, built, ids, goldens, {}), wait=None)


if __name__ == "__main__":
    main()
