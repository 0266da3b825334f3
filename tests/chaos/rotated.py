"""Releases that are one model under many rotations, so that a mixed pair gives visible nonsense.

Within a release user and article vectors are rotated alike, which changes no answer; a user vector
of one release in the index of another points anywhere. Article vectors are also scaled by a factor
of the release's own: the scores of an answer tell which release it was made from.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from local_stack.processes import tied_to_this_process
from releases.manifest import Manifest, parse_manifest

__all__ = [
    "ARTICLES",
    "DIMENSION",
    "FIRST_RELEASE",
    "LIMIT",
    "POPULAR",
    "USERS",
    "Catalogue",
    "RotatedReleases",
    "Variant",
    "popular_ids",
    "prepare_releases",
    "rotation",
    "scale",
]

ARTICLES = 6_000
DIMENSION = 32
USERS = 3_000
LIMIT = 50
"""Articles asked for; small beside ARTICLES, so that a wrong answer shares few by chance."""
POPULAR = 500
FIRST_RELEASE = 1_800_000_000

Variant = str
"""`sound`, or how the release is wrong with checksums that agree; see `making`."""

_SOURCES = ("rotated.py", "making.py", "../../loadtest/bench/synthetic.py")


@cache
def rotation(release: int) -> NDArray[np.float32]:
    """Answer the orthogonal matrix of a release, float32[D, D]."""
    gaussian = np.random.default_rng(release).standard_normal((DIMENSION, DIMENSION))
    return np.linalg.qr(gaussian)[0].astype(np.float32)


def scale(release: int) -> float:
    """Answer the factor of a release's article vectors; no two are within half a percent."""
    return 1.0 + 0.01 * (release - FIRST_RELEASE)


def popular_ids(release: int, article_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Answer the popular articles of a release, most viewed first; others in each release."""
    return np.random.default_rng(release).permutation(article_ids)[:POPULAR]


@dataclass(frozen=True)
class Catalogue:
    """Articles and users before rotation: what is right in every release."""

    article_ids: NDArray[np.int64]
    article_vectors: NDArray[np.float32]
    histories: NDArray[np.int64]
    """int64[users, 50], newest first, -1 where shorter."""
    user_vectors: NDArray[np.float32]
    """As a SavedModel answered them, rotated back."""

    @classmethod
    def load(cls, path: Path) -> "Catalogue":
        """Read what `making` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def articles_in(self, release: int) -> NDArray[np.float32]:
        """Answer the article vectors as they are in a release."""
        return self.article_vectors @ rotation(release) * np.float32(scale(release))

    def users_in(self, release: int) -> NDArray[np.float32]:
        """Answer the user vectors as they are in a release."""
        return self.user_vectors @ rotation(release)

    def history(self, user: int) -> NDArray[np.int64]:
        """Answer the articles that a user viewed, newest first."""
        row = self.histories[user]
        return row[row >= 0]


class RotatedReleases:
    """Finished releases in a cache, ready to be published."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.catalogue = Catalogue.load(directory / "catalogue.npz")

    def staging(self, variant: Variant) -> Path:
        """Answer the folder, laid out as a store, that holds all releases of this variant."""
        return self._directory / variant

    def manifest_file(self, release: int, variant: Variant = "sound") -> Path:
        """Answer the file that holds the release's manifest."""
        return self._directory / variant / "manifests" / f"{release}.json"

    def manifest(self, release: int, variant: Variant = "sound") -> Manifest:
        """Read the release's manifest."""
        path = self.manifest_file(release, variant)
        return parse_manifest(path.read_bytes(), str(path))


def prepare_releases(cache_root: Path, wanted: Sequence[tuple[int, Variant]]) -> RotatedReleases:
    """Make the releases that the cache does not hold yet.

    In a process of its own: making a SavedModel takes TensorFlow, which stays out of this one.
    """
    directory = cache_root / f"chaos-{_key()}"
    made = RotatedReleases(directory) if (directory / "catalogue.npz").exists() else None
    missing = [
        (release, variant)
        for release, variant in wanted
        if made is None or not made.manifest_file(release, variant).exists()
    ]
    if missing:
        command = [sys.executable, "-m", "tests.chaos.making", str(directory), json.dumps(missing)]
        subprocess.run(tied_to_this_process(command), check=True)
    return RotatedReleases(directory)


def _key() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]
