"""How this process deals with memory that was freed."""

import ctypes
from typing import Final

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_NEVER: Final = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Keep it for the next allocation, where the C library is glibc.

    Each step of a training allocates the same large blocks. By default glibc gives such blocks back
    to the kernel at once, which clears every page of the next one: a quarter of the time of a step.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)
