"""What TensorFlow and Beam say when a disk is full or a file is broken, as one sentence."""

import errno
import os
import re
import sys
from typing import Final

__all__ = ["told_by_library"]

_OF_THE_MACHINE: Final = tuple(
    os.strerror(code)
    for code in (
        errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOENT, errno.ENOMEM,
        errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE,
    )
)  # fmt: skip
"""Both libraries end their message with the system's words."""

_NOISE: Final = re.compile(
    r"\{\{.*?\}\}"  # TensorFlow: the node
    r"|\[Op:.*?\]|\[\[.*?\]\]"
    r"|\[while running .*"  # Beam: the transform
    r"|^([A-Za-z_]+\.)*[A-Za-z_]*Error: ",
    re.DOTALL,
)


def told_by_library(error: Exception) -> str | None:
    """Answer what TensorFlow or Beam say of the machine or the data; None for any other error.

    Any other of theirs is a mistake of ours. Neither is imported for it: where one was raised, it
    is there.
    """
    text = str(getattr(error, "message", None) or error)
    told = any(words in text for words in _OF_THE_MACHINE)
    if not (_is_of_tensorflow(error, told=told) or (told and _is_of_beam(error))):
        return None
    # Beam may put a worker's whole traceback into the message: its last line is the error.
    cleaned = _NOISE.sub("", text).strip()
    if "Traceback (most recent call last)" in cleaned:
        cleaned = _NOISE.sub("", cleaned.splitlines()[-1])
    return " ".join(cleaned.split())


def _is_of_tensorflow(error: Exception, *, told: bool) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return False
    kinds = tensorflow.errors
    return told or isinstance(
        error, (kinds.DataLossError, kinds.ResourceExhaustedError, kinds.UnavailableError)
    )


def _is_of_beam(error: Exception) -> bool:
    """Beam raises an error of a worker's again, as one of the same class or as a RuntimeError."""
    return "apache_beam" in sys.modules and "[while running '" in str(error)
