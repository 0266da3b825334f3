"""What can go wrong, in words for the page or for the terminal."""

from dataclasses import dataclass

__all__ = ["CallFailedError", "FieldError", "StartupError"]


class StartupError(Exception):
    """The page cannot be served; the message names the variable or the address."""


class FieldError(Exception):
    """A field of the form cannot be sent as it is; the message names it."""


@dataclass
class CallFailedError(Exception):
    """A gRPC call did not answer."""

    part: str
    """Which part was asked, such as `recommender`."""
    address: str
    code: str
    """The name of the gRPC status code."""
    message: str

    def __str__(self) -> str:
        return f"{self.part} at {self.address}: {self.code}: {self.message}"
