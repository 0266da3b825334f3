"""The right to bring a release into a store: taken before its first file is stored."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from releases.errors import ReleaseClaimedError
from releases.layout import Part, part_path
from releases.manifest import FileEntry, Manifest
from releases.store import ReleaseStore, claim_path

__all__ = [
    "DEAD_SECONDS",
    "Claim",
    "ClaimDocument",
    "claim_to_copy",
    "claim_to_publish",
    "read_claim",
]

DEAD_SECONDS: Final = 24 * 3600
"""A copy or publish that began so long ago is dead: no release takes a day to copy."""


class ClaimDocument(BaseModel):
    """What a claim says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    learnt_sha256: str
    """Of the entries of the files that come from the training: model and embeddings."""
    manifest_sha256: str | None
    """None as long as those are copied ahead of the rest."""
    claimed_at_ms: Annotated[int, Field(ge=0)]
    """Unix time in ms when somebody last began to work under it."""


class Claim:
    """Says which contents are being brought under an id, by their checksums.

    So whoever has the same contents may go on where another died, on whatever machine, and even
    beside it: both store the same bytes. A publisher goes on from a copy of the same model and
    embeddings. One that fails leaves its claim, since another with the same contents may be at
    work under it; other contents have to take it over.
    """

    def __init__(
        self, store: ReleaseStore, release: int, learnt_sha256: str, manifest_sha256: str | None
    ) -> None:
        self._store = store
        self._release = release
        self._path = claim_path(release)
        self._learnt_sha256 = learnt_sha256
        self._manifest_sha256 = manifest_sha256

    def take(self, *, take_over: bool) -> None:
        """Create the claim, or join one for the same contents.

        Raises ReleaseClaimedError where it is for others, unless that is to be taken over: once,
        so of several who take over one succeeds.
        """
        found = read_claim(self._store, self._release)
        if found is not None and self._may_join(found):
            self._store.put(self._path, self._document(found.manifest_sha256))
        else:
            if take_over:
                self.remove()
            with suppress(FileExistsError):
                self._store.create(self._path, self._document(None))
        self.check()

    def check(self) -> None:
        """Raise ReleaseClaimedError where the claim is not, or no longer, for these contents."""
        found = read_claim(self._store, self._release)
        if found is None or not self._is_mine(found):
            raise ReleaseClaimedError(
                f"{self._store.url}: another publisher has begun release {self._release} with "
                f"other contents{_since(found)}: publish under a new id, or, if that publisher is "
                "dead, repeat with --take-over"
            )

    def remove(self) -> None:
        """Take the claim away, whoever's it is."""
        self._store.remove_claim(self._release)

    def _may_join(self, found: ClaimDocument) -> bool:
        return found.learnt_sha256 == self._learnt_sha256 and (
            None in {found.manifest_sha256, self._manifest_sha256}
            or found.manifest_sha256 == self._manifest_sha256
        )

    def _is_mine(self, found: ClaimDocument) -> bool:
        return self._may_join(found) and (
            self._manifest_sha256 is None or found.manifest_sha256 is not None
        )

    def _document(self, others_manifest: str | None) -> bytes:
        document = ClaimDocument(
            learnt_sha256=self._learnt_sha256,
            manifest_sha256=self._manifest_sha256 or others_manifest,
            claimed_at_ms=time.time_ns() // 10**6,
        )
        return document.model_dump_json().encode()


def claim_to_publish(store: ReleaseStore, manifest: Manifest, document: bytes) -> Claim:
    """Make the claim of who publishes; `document` is the manifest as it will be stored."""
    return Claim(
        store,
        manifest.release,
        _learnt_sha256(manifest.release, manifest.files),
        hashlib.sha256(document).hexdigest(),
    )


def claim_to_copy(store: ReleaseStore, release: int, files: Iterable[FileEntry]) -> Claim:
    """Make the claim of who copies model and embeddings ahead of the rest."""
    return Claim(store, release, _learnt_sha256(release, files), None)


def read_claim(store: ReleaseStore, release: int) -> ClaimDocument | None:
    """Read the claim of a release; None where there is none that can be read."""
    try:
        return ClaimDocument.model_validate_json(b"".join(store.chunks(claim_path(release))))
    except (FileNotFoundError, ValidationError):
        return None


def _learnt_sha256(release: int, files: Iterable[FileEntry]) -> str:
    homes = tuple(part_path(part, release) + "/" for part in (Part.MODEL, Part.EMBEDDINGS))
    digest = hashlib.sha256()
    for entry in sorted(files, key=lambda entry: entry.path):
        if entry.path.startswith(homes):
            digest.update(entry.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def _since(found: ClaimDocument | None) -> str:
    if found is None:
        return ""
    return f" at {datetime.fromtimestamp(found.claimed_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
