"""What can be wrong with a release or a store. Each message says what to do about it."""

__all__ = [
    "IncompleteReleaseError",
    "LocalDiskError",
    "ManifestError",
    "NotInServiceError",
    "ReleaseClaimedError",
    "ReleaseError",
    "ReleaseExistsError",
    "ReleaseNotFoundError",
    "StoreError",
]


class ReleaseError(Exception):
    """Base of all errors of this package."""


class ManifestError(ReleaseError):
    """A manifest is malformed; the message names its path and the field."""


class ReleaseExistsError(ReleaseError):
    """A release of this id is already published; releases are immutable."""


class ReleaseClaimedError(ReleaseError):
    """Another publisher has begun to publish other contents under this id."""


class NotInServiceError(ReleaseError):
    """The release before is not in service everywhere; servers hold no more than two."""


class ReleaseNotFoundError(ReleaseError):
    """The store has no manifest for this release."""


class IncompleteReleaseError(ReleaseError):
    """A file of a release is missing, or its size or checksum is not the manifest's."""


class StoreError(ReleaseError):
    """The store cannot be reached, or refuses; the same call may succeed later."""


class LocalDiskError(ReleaseError):
    """The local disk refuses a release: it is full, or not to be written to."""
