"""Where the parts of a release lie below a store, and the names of their files."""

from enum import StrEnum
from typing import Final

__all__ = [
    "ARTICLE_IDS_FILE",
    "ARTICLE_VECTORS_FILE",
    "ATTRIBUTES_FILE",
    "HISTORY_LENGTH",
    "INDEX_FILE",
    "MANIFESTS",
    "POPULAR_FILE",
    "SERVING",
    "SPLIT_FILE",
    "WARMUP_FILE",
    "Part",
    "manifest_path",
    "part_path",
    "withdrawn_path",
]

MANIFESTS: Final = "releases"

SERVING: Final = "serving"
"""Of each server that reports: what it holds and what its callers answer from."""

HISTORY_LENGTH: Final = 50
"""Articles of a user that a model sees: the width of the `history` in its signature."""

SPLIT_FILE: Final = "releases/split.json"
"""Which share of the users the newer of two releases answers; absent: all of them."""

INDEX_FILE: Final = "items.faiss"
"""In `Part.INDEX`: the faiss index; its ids are article ids."""

POPULAR_FILE: Final = "popular.npz"
"""In `Part.INDEX`: parallel arrays `region_ids` int64[n] (-1: overall), `article_ids` int64[n] and
`views` float64[n] (int64 of older releases), views of which each counts by its age; each region's
rows together, most viewed first, the overall list first. After its first 6,000 that one goes on
with the most viewed articles of each value of each attribute."""

ATTRIBUTES_FILE: Final = "attributes.npz"
"""In `Part.INDEX`: `article_ids` int64[n], ascending, and for each attribute `attribute:<name>`
int64[n], -1 where an article has none."""

ARTICLE_IDS_FILE: Final = "ids.npy"
"""In `Part.EMBEDDINGS`: int64[n]."""

ARTICLE_VECTORS_FILE: Final = "vectors.npy"
"""In `Part.EMBEDDINGS`: float32[n, dimension], C order, row i belongs to id i."""

WARMUP_FILE: Final = "assets.extra/tf_serving_warmup_requests"
"""In `Part.MODEL`: TFRecord of PredictionLog; where TensorFlow Serving looks for it."""


class Part(StrEnum):
    """A directory of a release, by its folder below the store."""

    MODEL = "models/user_tower"
    INDEX = "indexes/items"
    EMBEDDINGS = "embeddings/items"


def part_path(part: Part, release: int) -> str:
    """Name the directory of one part, relative to the store."""
    return f"{part.value}/{release}"


def manifest_path(release: int) -> str:
    """Name the manifest, relative to the store."""
    return f"{MANIFESTS}/{release}.json"


def withdrawn_path(release: int) -> str:
    """Name the marker that withdraws a release, relative to the store."""
    return f"{MANIFESTS}/{release}.withdrawn"
