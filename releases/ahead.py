"""Model and embeddings of a release, put into the store while its index is still being built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from releases._claim import claim_to_copy, read_claim
from releases.checksums import OnBytes, describe_files, ignore_bytes
from releases.layout import Part
from releases.manifest import FileEntry
from releases.store import ReleaseStore
from releases.transfer import Transferred, copy_files

__all__ = ["copy_ahead", "describe_ahead", "discard_copy"]

_PARTS: Final = (Part.MODEL, Part.EMBEDDINGS)


def describe_ahead(staging: Path, release: int) -> tuple[FileEntry, ...]:
    """Take size and checksum of model and embeddings; the index need not be there."""
    return describe_files(staging, release, _PARTS)


def copy_ahead(
    source: ReleaseStore,
    store: ReleaseStore,
    release: int,
    files: Sequence[FileEntry],
    on_bytes: OnBytes = ignore_bytes,
) -> Transferred:
    """Copy model and embeddings of an unpublished release; `publish` adds the rest.

    `source` is most often a folder laid out as a store. Nobody sees the files before the manifest.
    They are stored under the claim that a publisher takes, so others under the same id are refused.
    `on_bytes` hears of every byte twice. Raises ReleaseExistsError, ReleaseClaimedError, and what
    `copy_files` raises; after that it may be repeated.
    """
    store.refuse_published(release)
    claim_to_copy(store, release, files).take(take_over=False)
    return copy_files(source, store, files, on_bytes)


def discard_copy(store: ReleaseStore, release: int) -> bool:
    """Remove what was copied ahead for a release that will not be published.

    Returns whether it did: nothing is removed of a published release, or of one whose publishing
    has begun. If it is interrupted it may be repeated.
    """
    claim = read_claim(store, release)
    if claim is None or claim.manifest_sha256 is not None or store.is_published(release):
        return False
    store.remove_parts(release)
    store.remove_claim(release)  # last: what has a claim is not forgotten
    return True
