"""Why a release cannot be served. Knows nothing of gRPC."""

from enum import StrEnum

__all__ = ["RefusalReason", "ReleaseRefusedError"]


class RefusalReason(StrEnum):
    """The kinds of refusal, few enough for a metric's label."""

    MIRROR = "mirror"
    """Manifest or files could not be fetched as the manifest says."""
    FILES = "files"
    """A file on local disk is missing, unreadable, or not of the manifest's size."""
    INDEX = "index"
    """The index is not the one that the manifest describes."""
    GOLDEN_QUERIES = "golden_queries"
    """The index answers the golden queries differently."""
    TABLES = "tables"
    """Popular articles or attributes are malformed."""
    UNEXPECTED = "unexpected"
    """A fault of ours or of the machine; the log has the details."""


class ReleaseRefusedError(Exception):
    """A release cannot be served; the message says what is wrong and where."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
