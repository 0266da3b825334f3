"""Checking a published release where it is stored."""

from releases.checksums import OnBytes, find_problems, ignore_bytes
from releases.errors import IncompleteReleaseError
from releases.manifest import Manifest
from releases.store import ReleaseStore

__all__ = ["verify"]


def verify(store: ReleaseStore, release: int, on_bytes: OnBytes = ignore_bytes) -> Manifest:
    """Read every file of a published release and compare it with the manifest.

    Raises ReleaseNotFoundError, ManifestError, or IncompleteReleaseError with every problem.
    """
    manifest = store.manifest(release)
    present = store.file_sizes(release)
    problems = list(find_problems(manifest.files, present, store.chunks, on_bytes))
    if problems:
        raise IncompleteReleaseError(f"release {release}: {'; '.join(problems)}")
    return manifest
