"""Keeping TensorFlow's start-up lines off the terminal."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["load_tensorflow", "without_native_messages"]


_taking_turns = threading.RLock()


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Discard what is written to file descriptor 2.

    While it is imported, TensorFlow's C++ part writes there whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    # Of two threads in here the second would keep, and restore, what the first put there.
    with _taking_turns:
        kept = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def load_tensorflow() -> Any:
    """Import TensorFlow, which takes seconds, for those who need it only now."""
    with without_native_messages():
        import tensorflow as tf  # noqa: PLC0415 - see above

    return tf
