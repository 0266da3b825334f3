"""The right to publish under one id: taken before the first file is stored."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from releases.errors import ReleaseClaimedError
from releases.store import ReleaseStore, claim_path

__all__ = ["Claim"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    manifest_sha256: str
    claimed_at_ms: Annotated[int, Field(ge=0)]
    """Unix time in ms, for people."""


class Claim:
    """Says which contents are being published under an id, by the checksum of their manifest.

    So whoever has the same contents may go on where another died, on whatever machine, and even
    beside it: both store the same bytes. A publisher that fails leaves its claim, since another
    with the same contents may be at work under it; other contents have to take it over.
    """

    def __init__(self, store: ReleaseStore, release: int, manifest_sha256: str) -> None:
        self._store = store
        self._release = release
        self._path = claim_path(release)
        self._manifest_sha256 = manifest_sha256

    def take(self, *, take_over: bool) -> None:
        """Create the claim, or join one for the same contents.

        Raises ReleaseClaimedError where it is for others, unless that is to be taken over: once,
        so of several who take over one succeeds.
        """
        mine = _Document(
            manifest_sha256=self._manifest_sha256, claimed_at_ms=time.time_ns() // 10**6
        )
        if take_over and not self._is_mine():
            self.remove()
        with suppress(FileExistsError):
            self._store.create(self._path, mine.model_dump_json().encode())
        self.check()

    def check(self) -> None:
        """Raise ReleaseClaimedError where the claim is not, or no longer, for these contents."""
        if not self._is_mine():
            raise ReleaseClaimedError(
                f"{self._store.url}: another publisher has begun release {self._release} with "
                f"other contents{self._since()}: publish under a new id, or, if that publisher is "
                "dead, repeat with --take-over"
            )

    def remove(self) -> None:
        """Take the claim away, whoever's it is."""
        self._store.remove_file(self._path)

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.manifest_sha256 == self._manifest_sha256

    def _since(self) -> str:
        found = self._read()
        if found is None:
            return ""
        return (
            f" at {datetime.fromtimestamp(found.claimed_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )

    def _read(self) -> _Document | None:
        try:
            return _Document.model_validate_json(b"".join(self._store.chunks(self._path)))
        except (FileNotFoundError, ValidationError):
            return None
