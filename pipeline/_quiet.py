"""Keeping TensorFlow's start-up lines off the terminal."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_native_messages"]


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
