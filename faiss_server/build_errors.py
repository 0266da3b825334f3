"""What goes wrong when an index is built."""

__all__ = ["BuildError"]


class BuildError(ValueError):
    """The vectors, ids, queries or spec cannot make an index; the message says which and why."""
