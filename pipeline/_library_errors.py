"""What TensorFlow and Beam say when a disk is full or a file is broken, as one sentence."""

import re
import sys
from typing import Final

__all__ = ["told_by_library"]

_NOISE: Final = re.compile(
    r"\{\{.*?\}\}"  # TensorFlow: the node
    r"|\[Op:.*?\]|\[\[.*?\]\]"
    r"|\[while running .*"  # Beam: the transform
    r"|^([A-Za-z_]+\.)*[A-Za-z_]*Error: ",
    re.DOTALL,
)


def told_by_library(error: Exception) -> str | None:
    """Answer what an error of TensorFlow's or Beam's says; None for any other.

    Neither is imported for it: where one was raised, it is there.
    """
    if not (_is_of_tensorflow(error) or _is_of_beam(error)):
        return None
    text = str(getattr(error, "message", None) or error)
    return " ".join(_NOISE.sub("", text).split())


def _is_of_tensorflow(error: Exception) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def _is_of_beam(error: Exception) -> bool:
    """Beam raises an error of a worker's again, as one of the same class or as a RuntimeError."""
    return "apache_beam" in sys.modules and "[while running '" in str(error)
