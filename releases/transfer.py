"""Copying files between any two stores: in parallel, verified, and only those that are missing."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final

from releases.checksums import OnBytes, ignore_bytes, problem_of, sound_chunks
from releases.errors import IncompleteReleaseError, StoreError
from releases.manifest import FileEntry
from releases.store import ReleaseStore

__all__ = ["Transferred", "copy_files"]

_WORKERS: Final = 4


@dataclass(frozen=True)
class Transferred:
    """What a copy had to do."""

    bytes_sent: int
    bytes_already_there: int


class _StoppedError(Exception):
    """Another file failed, so that this one is of no use."""


def copy_files(
    source: ReleaseStore,
    target: ReleaseStore,
    files: Sequence[FileEntry],
    on_bytes: OnBytes = ignore_bytes,
    *,
    workers: int = _WORKERS,
) -> Transferred:
    """Bring the files into the target, `workers` at a time.

    Each is read back and its checksum compared, because a proxy, or an upload that ended early
    without an error, leaves what no store complains of: that costs one download of everything. A
    file that is there already and sound is not sent again. A file gets its name only when all of
    it has come and is what its entry says, so an interrupted copy is repeated by calling this
    again. The stores' own clients retry what passes (s3fs: five times, gcsfs: six times, both
    waiting longer each time).

    `on_bytes`, called from several threads, hears of every byte twice: when sent and when read
    back. Memory is a few blocks of 8 MiB for each worker. The first failure ends the others. Raises
    StoreError naming the file and both stores, or IncompleteReleaseError naming the store whose
    file is not what its entry says.
    """
    stopping = threading.Event()

    def tell(count: int) -> None:
        if stopping.is_set():
            raise _StoppedError
        on_bytes(count)

    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as threads:
        under_way = [threads.submit(_copy_file, source, target, entry, tell) for entry in files]
        try:
            sent = sum(one.result() for one in as_completed(under_way))
        except BaseException:
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return Transferred(sent, sum(entry.size for entry in files) - sent)


def _copy_file(
    source: ReleaseStore, target: ReleaseStore, entry: FileEntry, on_bytes: OnBytes
) -> int:
    """Answer how many bytes were sent; none where the file was there already."""
    try:
        on_sent = on_bytes
        if target.size(entry.path) == entry.size:
            if _problem(target, entry, on_bytes) is None:
                on_bytes(entry.size)
                return 0
            on_sent = ignore_bytes  # these were told of while the spoilt file was read
        target.write(entry.path, _chunks_to_send(source, entry, on_sent), entry.size)
        problem = _problem(target, entry, on_bytes)
    except StoreError as error:
        raise StoreError(
            f"{entry.path}: not copied from {source.url} to {target.url}: {error}"
        ) from error
    if problem is not None:
        raise IncompleteReleaseError(
            f"{target.url}: {problem}; it came whole from {source.url}, so repeat the copy"
        )
    return entry.size


def _problem(store: ReleaseStore, entry: FileEntry, on_bytes: OnBytes) -> str | None:
    try:
        return problem_of(entry, store.chunks(entry.path), lambda chunk: on_bytes(len(chunk)))
    except FileNotFoundError:
        return f"{entry.path}: is missing"


def _chunks_to_send(source: ReleaseStore, entry: FileEntry, on_bytes: OnBytes) -> Iterator[bytes]:
    try:
        for chunk in sound_chunks(entry, source.chunks(entry.path)):
            on_bytes(len(chunk))
            yield chunk
    except FileNotFoundError:
        raise IncompleteReleaseError(f"{source.url}: {entry.path}: is missing") from None
    except IncompleteReleaseError as error:
        raise IncompleteReleaseError(f"{source.url}: {error}") from None
