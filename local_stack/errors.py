"""What can go wrong when a stack is started; messages are the line that people read."""

__all__ = ["StackError"]


class StackError(Exception):
    """A part could not be started, or ended by itself."""
