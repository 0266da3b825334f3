"""`python -m loadtest.bench.making DIRECTORY ARTICLES`: a store with one generated release.

Writes `store/`, and `catalogue.npz` with what users viewed and how well few lists do.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))  # k-means takes minutes on one

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import BuiltIndex, build_index, exact_top_k, write_index
from faiss_server.index_kind import IndexKind
from faiss_server.tuning import Effort, Wanted, recalls
from loadtest.bench.catalogue import DIMENSION, RELEASE, generate
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

_FEW_LISTS: Final = 16
_K: Final = 200
_QUERIES: Final = 512
_POPULAR: Final = 2000


def main() -> None:
    """Make the release, unless it is there."""
    directory, articles = Path(sys.argv[1]), int(sys.argv[2])
    done = directory / "catalogue.npz"
    if done.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    staging = directory / "staging"
    catalogue = generate(articles)
    tower = UserTower(
        catalogue.article_ids[catalogue.known],
        catalogue.vectors[catalogue.known],
        np.eye(DIMENSION, dtype=np.float32),
    )
    users = tower.asked(catalogue.histories)
    held_out = users[_QUERIES : 2 * _QUERIES]
    built = build_index(
        catalogue.vectors, catalogue.article_ids, users[:_QUERIES], held_out=held_out,
        recall_target=0.99, k=_K, spare=HISTORY_LENGTH,
    )  # fmt: skip
    few = _recall_of_few_lists(built, catalogue.article_ids, catalogue.vectors, held_out)
    write_model(staging, RELEASE, tower, catalogue.histories)
    index = staging / part_path(Part.INDEX, RELEASE) / INDEX_FILE
    write_index(built, index)
    popular = catalogue.article_ids[catalogue.known][:_POPULAR]
    write_tables(staging, RELEASE, catalogue.article_ids, popular)
    # No server reads the embeddings; one article keeps the release whole.
    write_embeddings(staging, RELEASE, catalogue.article_ids[:1], catalogue.vectors[:1])
    manifest = describe(
        staging,
        RELEASE,
        built,
        catalogue.article_ids,
        goldens_of(index, catalogue.histories, users),
        {"recall_at_200_of_16_lists": few},
    )
    publish(ReleaseStore(str(directory / "store")), staging, manifest, wait=None)
    shutil.rmtree(staging)
    partial = directory / "partial.npz"
    np.savez(partial, histories=catalogue.histories)
    partial.rename(done)


def _recall_of_few_lists(
    built: BuiltIndex,
    article_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> float:
    wanted = Wanted(queries, article_ids[exact_top_k(vectors, queries, _K)])
    effort = Effort(_FEW_LISTS, built.info.refine_factor)
    return float(recalls(IndexKind.of(built.index), wanted, effort).mean())


if __name__ == "__main__":
    main()
