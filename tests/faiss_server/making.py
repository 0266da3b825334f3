"""Makes small real releases, and answers searches of them exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from faiss_server.attributes import AttributeFilter
from releases.layout import (
    ATTRIBUTES_FILE,
    INDEX_FILE,
    POPULAR_FILE,
    Part,
    part_path,
)
from releases.manifest import Manifest
from releases.publish import publish
from releases.store import ReleaseStore
from tests.support.releases import manifest_of, stage_files, tiny_files

__all__ = ["Made", "described_anew", "exact_top", "make_release", "publish_release"]

NPROBE = 3

Prepare = Callable[[Any], None]


@dataclass(frozen=True)
class Made:
    """A release below `root`, laid out as a store, and what is in it."""

    root: Path
    manifest: Manifest
    article_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    attributes: Mapping[str, NDArray[np.int64]]

    @property
    def home(self) -> Path:
        return self.root / part_path(Part.INDEX, self.manifest.release)


def make_release(
    root: Path,
    release: int,
    *,
    articles: int = 700,
    dimension: int = 8,
    factory: str = "IVF16,Flat",
    prepare: Prepare | None = None,
    **fields: Any,
) -> Made:
    """Make a release from random vectors of its number's seed.

    `prepare` gets the index before it is written; `fields` replace fields of the manifest.
    """
    random = np.random.default_rng(release)
    vectors = random.standard_normal((articles, dimension), dtype=np.float32)
    article_ids = random.permutation(articles).astype(np.int64) * 7 + 10**12
    index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add_with_ids(vectors, article_ids)
    index.nprobe = NPROBE
    fields = _golden_queries(index, random) | fields
    if prepare is not None:
        prepare(index)
    stage_files(root, tiny_files(release))
    home = root / part_path(Part.INDEX, release)
    faiss.write_index(index, str(home / INDEX_FILE))
    attributes = _write_attributes(home, article_ids, random)
    _write_popular(home, np.sort(article_ids))
    described = {
        "dimension": dimension,
        "article_count": articles,
        "index": {
            "type": factory,
            "lists": index.nlist,
            "nprobe": NPROBE,
            "recall_at_200": 0.9,
        },
    }
    manifest = manifest_of(root, release, **described | fields)
    return Made(root, manifest, article_ids, vectors, attributes)


def described_anew(made: Made, **fields: Any) -> Manifest:
    """Describe the files as they are now: their checksums then do not tell that they changed."""
    before = made.manifest.model_dump(mode="json", exclude={"files", "release"})
    return manifest_of(made.root, made.manifest.release, **before | fields)


def publish_release(store: ReleaseStore, staging: Path, release: int, **how: Any) -> Made:
    """Make and publish a release."""
    made = make_release(staging / str(release), release, **how)
    publish(store, made.root, made.manifest)
    return made


def exact_top(
    made: Made,
    vector: NDArray[np.float32],
    k: int,
    excluded: NDArray[np.int64] | None = None,
    filters: frozenset[AttributeFilter] = frozenset(),
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Answer the best k articles by brute force, best first; equal scores by id."""
    kept = np.ones(made.article_ids.size, np.bool_)
    if excluded is not None:
        kept &= ~np.isin(made.article_ids, excluded)
    for condition in filters:
        listed = np.isin(made.attributes[condition.attribute], list(condition.values))
        kept &= ~listed if condition.negated else listed
    article_ids, scores = made.article_ids[kept], made.vectors[kept] @ vector
    order = np.lexsort((article_ids, -scores))[:k]
    return article_ids[order], scores[order]


def _golden_queries(index: Any, random: np.random.Generator) -> dict[str, Any]:
    queries = random.standard_normal((3, index.d), dtype=np.float32)
    scores, ids = index.search(queries, 20)
    return {
        "golden_queries": [
            {"vector": query.tolist(), "article_ids": row.tolist(), "scores": of_row.tolist()}
            for query, row, of_row in zip(queries, ids, scores, strict=True)
        ]
    }


def _write_attributes(
    home: Path, article_ids: NDArray[np.int64], random: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """`language`: 5 values, `author`: many and some without; `shelf`: the same for almost all."""
    size = article_ids.size
    attributes = {
        "language": random.integers(0, 5, size),
        "author": np.where(random.random(size) < 0.2, -1, random.integers(0, 10**9, size) // 10**7),
        "shelf": (random.random(size) < 0.02).astype(np.int64),
    }
    order = np.argsort(article_ids)
    columns: dict[str, Any] = {
        f"attribute:{name}": column[order] for name, column in attributes.items()
    }
    np.savez(home / ATTRIBUTES_FILE, article_ids=article_ids[order], **columns)
    return attributes


def _write_popular(home: Path, article_ids: NDArray[np.int64]) -> None:
    """Overall the first ten, in region 3 the next four, in region 5 the last one and a stranger."""
    listed = np.concatenate([article_ids[:10], article_ids[10:14], article_ids[-1:], [5]])
    np.savez(
        home / POPULAR_FILE,
        region_ids=np.repeat(np.array([-1, 3, 5]), [10, 4, 2]),
        article_ids=listed,
        views=np.concatenate([np.arange(100, 90, -1), np.arange(40, 36, -1), [2, 1]]),
    )
