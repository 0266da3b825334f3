"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["create_file", "is_partial", "partial_name", "replacing", "sync_to_disk"]


def partial_name(path: Path) -> Path:
    """Name something unfinished beside `path`; hidden, and no integer for TensorFlow Serving."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def is_partial(name: str) -> bool:
    """Whether something of this name is unfinished."""
    return name.startswith(".") and name.endswith(".partial")


def sync_to_disk(stream: BinaryIO) -> None:
    """Make the contents survive a power cut, as the name that they get later will."""
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes its name, and the place of an older one, at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        with partial.open("xb") as stream:
            yield stream
            sync_to_disk(stream)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def create_file(path: Path, data: bytes) -> None:
    """Write a new file in one step; raises FileExistsError when there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        with partial.open("xb") as stream:
            stream.write(data)
            sync_to_disk(stream)
        path.hardlink_to(partial)  # unlike a rename, never takes the place of another
    finally:
        partial.unlink(missing_ok=True)
