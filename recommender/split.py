"""Which of two releases in service a user gets: the same one every time."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Split", "release_of", "releases_of"]


@dataclass(frozen=True, slots=True)
class Split:
    """`share` of the users (0 to 1) get `release`, the others the next older one in service."""

    release: int
    share: float
    changed_at_ms: int


def release_of(user_id: str, split: Split, in_service: Collection[int]) -> int | None:
    """Answer the user's release; None where the split's release or an older one is not in service.

    The release is part of what is hashed: an experiment does not always meet the same users. A
    larger share keeps those that a smaller one chose.
    """
    older = _older(split, in_service)
    if older is None:
        return None
    digest = hashlib.blake2b(f"{split.release}:{user_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2**64
    return split.release if place < split.share else older


def releases_of(split: Split, in_service: Collection[int]) -> frozenset[int]:
    """Name the releases that users get; none where the split has no effect."""
    older = _older(split, in_service)
    if older is None:
        return frozenset()
    shares = {split.release: split.share, older: 1 - split.share}
    return frozenset(release for release, share in shares.items() if share > 0)


def _older(split: Split, in_service: Collection[int]) -> int | None:
    older = [release for release in in_service if release < split.release]
    return max(older, default=None) if split.release in in_service else None
