"""The release that a new one has to stand beside: fetched from the store, and asked like it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from releases.layout import ARTICLE_IDS_FILE, ARTICLE_VECTORS_FILE, Part, part_path
from releases.manifest import Manifest
from releases.pull import pull
from releases.store import ReleaseStore

__all__ = ["ReleaseInService", "fetch_release_in_service"]


@dataclass(frozen=True)
class ReleaseInService:
    """A published release's model and article vectors on local disk."""

    manifest: Manifest
    directory: Path

    @property
    def saved_model(self) -> Path:
        """The SavedModel's folder."""
        return self.directory / part_path(Part.MODEL, self.manifest.release)

    def article_ids(self) -> NDArray[np.int64]:
        """Read the ids, int64[articles]."""
        ids: NDArray[np.int64] = np.load(self._embeddings / ARTICLE_IDS_FILE)
        return ids

    def article_vectors(self) -> NDArray[np.float32]:
        """Read the vectors, float32[articles, dimension]."""
        vectors: NDArray[np.float32] = np.load(self._embeddings / ARTICLE_VECTORS_FILE)
        return vectors

    @property
    def _embeddings(self) -> Path:
        return self.directory / part_path(Part.EMBEDDINGS, self.manifest.release)


def fetch_release_in_service(store_url: str, workdir: Path) -> ReleaseInService | None:
    """Fetch the newest usable release of a store; None where there is none yet.

    Raises ReleaseError where it cannot be had whole: then nothing says how good it is, and it has
    to be mended or withdrawn before another takes its place.
    """
    store = ReleaseStore(store_url)
    usable = store.usable()
    if not usable:
        return None
    directory = workdir / "in-service"
    shutil.rmtree(directory, ignore_errors=True)
    manifest = pull(store, usable[0], directory, (Part.MODEL, Part.EMBEDDINGS))
    return ReleaseInService(manifest, directory)
