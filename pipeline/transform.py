"""The transform graph: from raw ids to indices, the same one when training and when serving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline._quiet import load_tensorflow

__all__ = [
    "ARTICLES",
    "ARTICLE_INDICES",
    "REGIONS",
    "REGION_INDICES",
    "TransformGraph",
    "Vocabulary",
]

ARTICLES: Final = "articles"
REGIONS: Final = "regions"
ARTICLE_INDICES: Final = "article_indices"
REGION_INDICES: Final = "region_indices"
_NOTHING: Final = -1
"""What TensorFlow Transform writes into a vocabulary of integers that would be empty."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids, most frequent first, and how often each was counted; index 0 is none of them."""

    ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    def indices(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Look up ids as the graph does: the place plus one, 0 where an id is not in it."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int32)
        ascending = np.argsort(self.ids)
        places = np.minimum(np.searchsorted(self.ids, ids, sorter=ascending), len(self.ids) - 1)
        found = ascending[places]
        return np.where(self.ids[found] == ids, found + 1, 0).astype(np.int32)


@dataclass(frozen=True)
class TransformGraph:
    """The folder that TensorFlow Transform wrote; reading it takes TensorFlow alone."""

    directory: Path

    def articles(self) -> Vocabulary:
        """Read the articles that are viewed often enough."""
        return self._vocabulary(ARTICLES)

    def regions(self) -> Vocabulary:
        """Read the regions; there may be none."""
        return self._vocabulary(REGIONS)

    def load(self) -> Any:
        """Load the graph: a trackable object whose `transform_fn` takes and gives ragged tensors.

        Whatever is saved with it carries its vocabularies.
        """
        return load_tensorflow().saved_model.load(str(self.directory / "transform_fn"))

    def _vocabulary(self, name: str) -> Vocabulary:
        path = self.directory / "transform_fn" / "assets" / name
        counts, ids = np.loadtxt(path, np.int64, ndmin=2).T
        known = ids != _NOTHING
        return Vocabulary(ids[known], counts[known])
