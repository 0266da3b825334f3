"""What can go wrong with a measurement, told in one line."""

__all__ = ["LoadTestError"]


class LoadTestError(Exception):
    """The measurement could not be made, or measured nothing."""
