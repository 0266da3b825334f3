"""Sizes and checksums: taking them of new files, and finding what differs from a manifest."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from releases.errors import IncompleteReleaseError
from releases.layout import Part, part_path
from releases.manifest import FileEntry

__all__ = [
    "OnBytes",
    "describe_files",
    "file_sizes",
    "files_of",
    "find_problems",
    "ignore_bytes",
    "problem_of",
    "read_chunks",
    "sound_chunks",
]

OnBytes = Callable[[int], None]
"""Told the number of bytes after each chunk; what it raises ends the transfer."""

_CHUNK_BYTES: Final = 1 << 20


def ignore_bytes(_count: int) -> None:
    """Do without progress."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """Read a local file piece by piece."""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def files_of(
    root: Path, release: int, parts: Iterable[Part]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Walk the files in some parts of a release; one that goes meanwhile is left out."""
    for part in parts:
        for folder, _, names in os.walk(root / part_path(part, release), followlinks=True):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    yield path, path.stat()


def file_sizes(root: Path, release: int, parts: Iterable[Part] = tuple(Part)) -> dict[str, int]:
    """Size in bytes of every file in the parts, by its path relative to `root`."""
    return {
        path.relative_to(root).as_posix(): stat.st_size
        for path, stat in files_of(root, release, parts)
    }


def describe_files(
    root: Path, release: int, parts: Collection[Part] = tuple(Part)
) -> tuple[FileEntry, ...]:
    """Take size and checksum of every file in the parts of a release, ordered by path.

    `root` is laid out as a store. Raises IncompleteReleaseError for a part without files.
    """
    sizes = file_sizes(root, release, parts)
    for part in parts:
        home = part_path(part, release)
        if not any(path.startswith(home + "/") for path in sizes):
            raise IncompleteReleaseError(f"{root / home}: holds no files; every release needs it")
    return tuple(_describe(root, path) for path in sorted(sizes))


def _describe(root: Path, path: str) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    for chunk in read_chunks(root / path):
        digest.update(chunk)
        size += len(chunk)
    return FileEntry(path=path, size=size, sha256=digest.hexdigest())


def sound_chunks(entry: FileEntry, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass a file's chunks on.

    Raises IncompleteReleaseError saying what differs from its entry, if anything: as soon as there
    is more than the entry's size, so that no disk is filled in vain, or else after the last chunk.
    """
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > entry.size:
            raise IncompleteReleaseError(
                f"{entry.path}: is longer than the {entry.size} bytes of the manifest"
            )
        digest.update(chunk)
        yield chunk
    if size != entry.size:
        raise IncompleteReleaseError(_wrong_size(entry, size))
    if digest.hexdigest() != entry.sha256:
        raise IncompleteReleaseError(
            f"{entry.path}: has sha256 {digest.hexdigest()}, the manifest says {entry.sha256}"
        )


def problem_of(
    entry: FileEntry, chunks: Iterable[bytes], use: Callable[[bytes], object]
) -> str | None:
    """Read a file, hand each chunk to `use`, and say what differs from its entry, if anything."""
    try:
        for chunk in sound_chunks(entry, chunks):
            use(chunk)
    except IncompleteReleaseError as error:
        return str(error)
    return None


def find_problems(
    entries: Iterable[FileEntry],
    present: Mapping[str, int],
    read: Callable[[str], Iterable[bytes]],
    on_bytes: OnBytes = ignore_bytes,
) -> Iterator[str]:
    """Compare files with their entries, cheapest checks first; each problem is one sentence.

    `present` gives the sizes of the files that are there, `read` the contents of one.
    """
    entries = tuple(entries)
    for path in sorted(present.keys() - {entry.path for entry in entries}):
        yield f"{path}: is not in the manifest"
    sound = []
    for entry in entries:
        size = present.get(entry.path)
        if size is None:
            yield _missing(entry)
        elif size != entry.size:
            yield _wrong_size(entry, size)
        else:
            sound.append(entry)
    for entry in sound:
        try:
            problem = problem_of(entry, read(entry.path), lambda chunk: on_bytes(len(chunk)))
        except FileNotFoundError:
            problem = _missing(entry)
        if problem is not None:
            yield problem


def _missing(entry: FileEntry) -> str:
    return f"{entry.path}: is missing"


def _wrong_size(entry: FileEntry, size: int) -> str:
    return f"{entry.path}: has {size} bytes, the manifest says {entry.size}"
