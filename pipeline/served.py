"""A published release asked as the servers ask it: SavedModel, then the index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import search_file
from pipeline.errors import PipelineError
from pipeline.exported import ExportedModel, ServedTower
from releases.layout import INDEX_FILE, Part, part_path
from releases.manifest import Manifest
from releases.pull import pull
from releases.store import ReleaseStore

__all__ = ["Answers", "ServedRelease", "manifest_of"]

_MOST_EXCLUDED: Final = 5_000
"""Of a call of GetCandidates; of more views the newest are left out. (A search of the faiss server
takes 6,000: a call's, and the user's history.)"""


@dataclass(frozen=True)
class Answers:
    """The best articles of each question, best first; -1 where there were no more."""

    ids: NDArray[np.int64]
    """int64[questions, k]."""
    scores: NDArray[np.float32]

    def ranks(self, targets: NDArray[np.int64], missed: int) -> NDArray[np.int64]:
        """Rank raw ids int64[questions] among what was answered, 1 is best; `missed` if not there.

        A tie counts against the target.
        """
        found = self.ids == targets[:, None]
        own = np.where(found, self.scores, np.inf).min(axis=1)
        as_good = (self.scores >= own[:, None]) & (self.ids >= 0)
        return np.where(found.any(axis=1), as_good.sum(axis=1), missed)


def manifest_of(store_url: str, release: int | None) -> Manifest:
    """Read what a release is, the newest usable one by default. Raises as `ServedRelease.fetch`."""
    store = ReleaseStore(store_url)
    if release is None:
        usable = store.usable()
        if not usable:
            raise PipelineError(f"{store_url} has no release to evaluate")
        release = usable[0]
    return store.manifest(release)


@dataclass(frozen=True)
class ServedRelease:
    """The files of a release on this machine."""

    manifest: Manifest
    directory: Path
    """Laid out as a store."""

    @classmethod
    def fetch(cls, store_url: str, release: int | None, directory: Path) -> Self:
        """Fetch a release, the newest usable one by default. Raises ReleaseError, PipelineError."""
        chosen = manifest_of(store_url, release).release
        parts = (Part.MODEL, Part.EMBEDDINGS, Part.INDEX)
        return cls(pull(ReleaseStore(store_url), chosen, directory, parts), directory)

    @property
    def exported(self) -> ExportedModel:
        """The model and the article vectors."""
        manifest = self.manifest
        return ExportedModel(
            self.directory, manifest.release, manifest.dimension, manifest.article_count
        )

    @property
    def index_file(self) -> Path:
        """The faiss index."""
        return self.directory / part_path(Part.INDEX, self.manifest.release) / INDEX_FILE

    def answer(
        self,
        histories: NDArray[np.int64],
        regions: NDArray[np.int64],
        excluded: Sequence[NDArray[np.int64]],
        k: int,
    ) -> Answers:
        """Ask for k articles for each of the raw histories int64[n, 50], newest first.

        `excluded`: empty, or for each of them the ids to leave out, oldest first. A history without
        an article that the model knows is asked like any other; the recommender answers it with
        popular articles.
        """
        vectors, _ = ServedTower(self.exported.saved_model).user_vectors(histories, regions)
        newest = [ids[-_MOST_EXCLUDED:] for ids in excluded]
        return Answers(*search_file(self.index_file, vectors, k, newest))
