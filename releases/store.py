"""The place that releases are published to: a folder, or a bucket."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from releases._atomic import create_file, is_partial, replacing
from releases.errors import (
    ManifestError,
    ReleaseError,
    ReleaseExistsError,
    ReleaseNotFoundError,
    StoreError,
)
from releases.layout import (
    MANIFESTS,
    SPLIT_FILE,
    Part,
    manifest_path,
    part_path,
    withdrawn_path,
)
from releases.manifest import Manifest, parse_manifest
from releases.split import Split, parse_split

__all__ = ["Listing", "ReleaseStore", "claim_path"]

_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 8 << 20
"""Of an object, fetched or sent at once; s3fs alone would hold 50 MB of each open file."""
_MAX_PARTS: Final = 10_000
"""Of which S3 makes an object."""
_RELEASE: Final = re.compile(r"([1-9][0-9]{0,18})")


def claim_path(release: int) -> str:
    """Name the claim of whoever is bringing a release into the store, relative to it."""
    return f"{MANIFESTS}/{release}.publishing"


@dataclass(frozen=True)
class Listing:
    """What a store holds, as of one look at it."""

    published: tuple[int, ...]
    """Releases with a manifest, newest first, withdrawn ones included."""
    withdrawn: frozenset[int]

    @property
    def usable(self) -> tuple[int, ...]:
        """Published and not withdrawn, newest first."""
        return tuple(release for release in self.published if release not in self.withdrawn)


class ReleaseStore:
    """Releases below any fsspec URL: `file:///...` or a plain path, `s3://...`, `gs://...`.

    A place that does not exist yet is an empty store. Every call looks anew: nothing that was
    listed is remembered. Raises StoreError when the place cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with self._store_errors(""):
            # An instance of its own: fsspec would hand a cached one to others of this process,
            # whose invalidations and closing would then reach this store.
            self._fs, self._root = url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        self._local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def listing(self) -> Listing:
        """List manifests and withdrawals in one look."""
        names = self._names(MANIFESTS)
        published = sorted(_releases(names, ".json"), reverse=True)
        return Listing(tuple(published), frozenset(_releases(names, ".withdrawn")))

    def published(self) -> list[int]:
        """Releases that have a manifest, newest first, withdrawn ones included."""
        return list(self.listing().published)

    def withdrawn(self) -> set[int]:
        """Releases that are no longer to be used."""
        return set(self.listing().withdrawn)

    def usable(self) -> list[int]:
        """Releases that are published and not withdrawn, newest first."""
        return list(self.listing().usable)

    def stored(self) -> set[int]:
        """Releases of which there are any files, published or not."""
        return {
            release for part in Part for release in _releases(self._names(part.value), suffix="")
        }

    def claimed(self) -> set[int]:
        """Releases that somebody has begun to bring here; a published one may be among them."""
        return set(_releases(self._names(MANIFESTS), ".publishing"))

    def is_published(self, release: int) -> bool:
        """Whether the release has a manifest."""
        return release in self.listing().published

    def refuse_published(self, release: int) -> None:
        """Raise ReleaseExistsError for a published release."""
        if self.is_published(release):
            raise self.exists_error(release)

    def exists_error(self, release: int) -> ReleaseExistsError:
        """Make the error of who would publish a release a second time."""
        return ReleaseExistsError(
            f"{self.url} already has release {release}; a release is never changed: "
            "publish under a new id"
        )

    def manifest(self, release: int) -> Manifest:
        """Read the manifest of a published release.

        Raises ReleaseNotFoundError, or ManifestError when it is malformed.
        """
        path = manifest_path(release)
        try:
            text = self.read_file(path)
        except FileNotFoundError:
            raise self._not_found(release) from None
        manifest = parse_manifest(text, self._shown(path))
        if manifest.release != release:
            raise ManifestError(
                f"{self._shown(path)}: release: is {manifest.release}, which is not the file's name"
            )
        return manifest

    def split(self) -> Split | None:
        """Read the split; None where none was ever made. Raises ReleaseError when malformed."""
        try:
            text = self.read_file(SPLIT_FILE)
        except FileNotFoundError:
            return None
        return parse_split(text, self._shown(SPLIT_FILE))

    def set_split(self, split: Split) -> None:
        """Put a split in place of the one before."""
        self.put(SPLIT_FILE, split.model_dump_json().encode())

    def file_sizes(self, release: int) -> dict[str, int]:
        """Size in bytes of every file of a release, by its path relative to the store.

        Files that somebody is writing, or died while writing, are not told of.
        """
        sizes: dict[str, int] = {}
        for part in Part:
            home = part_path(part, release)
            with self._store_errors(home):
                found = self._fs.find(self._path(home), detail=True)
            sizes |= {
                self._relative(name): int(info["size"])
                for name, info in found.items()
                if not is_partial(name.rpartition("/")[2])
            }
        return sizes

    def size(self, path: str) -> int | None:
        """Size of one file in bytes; None where there is none."""
        try:
            with self._store_errors(path):
                return int(self._fs.info(self._path(path))["size"])
        except FileNotFoundError:
            return None

    def read_file(self, path: str) -> bytes:
        """Read a small file; raises FileNotFoundError when there is none."""
        with self._store_errors(path):
            data: bytes = self._fs.cat_file(self._path(path))
        return data

    def chunks(self, path: str) -> Iterator[bytes]:
        """Read one file piece by piece; raises FileNotFoundError when there is none."""
        with (
            self._store_errors(path),
            self._fs.open(self._path(path), "rb", block_size=_BLOCK_BYTES) as stream,
        ):
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def write(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Store a file of `size` bytes, in place of an older one, once all of it has come.

        When `chunks` raises, nothing of it is there. Holds no more than a few MB in memory.
        """
        with self._store_errors(path, writing=True):
            if self._local is not None:
                with replacing(self._local / path) as target:
                    target.writelines(chunks)
            elif size <= _BLOCK_BYTES:
                self._fs.pipe_file(self._path(path), b"".join(chunks))
            else:
                self._write_in_parts(path, chunks, size)

    def _write_in_parts(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        # Not committed by itself: what fsspec opens stores at the end of a `with` what it has got,
        # error or not.
        block = max(_BLOCK_BYTES, -(-size // (_MAX_PARTS * _CHUNK_BYTES)) * _CHUNK_BYTES)
        stream = self._fs.open(self._path(path), "wb", autocommit=False, block_size=block)
        try:
            for chunk in chunks:
                stream.write(chunk)
            stream.close()
            stream.commit()
        except BaseException:
            _discard(stream)
            raise

    def put(self, path: str, data: bytes) -> None:
        """Write a small file, in place of an older one."""
        with self._store_errors(path, writing=True):
            if self._local is None:
                self._fs.pipe_file(self._path(path), data)
                return
            with replacing(self._local / path) as target:
                target.write(data)

    def files_in(self, folder: str) -> list[str]:
        """List the files in a folder, relative to the store; none where there is no folder."""
        return [f"{folder}/{name}" for name in self._names(folder) if not name.startswith(".")]

    def create(self, path: str, data: bytes) -> None:
        """Write a small file in one step; raises FileExistsError when there is one already."""
        with self._store_errors(path, writing=True):
            if self._local is not None:
                create_file(self._local / path, data)
                return
            try:
                self._fs.pipe_file(self._path(path), data, mode="create")
            except Exception as error:
                # s3fs reports the failed precondition as a plain OSError.
                if self._fs.exists(self._path(path)):
                    raise FileExistsError(path) from error
                raise

    def withdraw(self, release: int) -> None:
        """Mark a published release as no longer to be used.

        Raises ReleaseNotFoundError.
        """
        if not self.is_published(release):
            raise self._not_found(release)
        try:
            self.create(withdrawn_path(release), b"")
        except FileExistsError:
            return  # withdrawn already

    def remove(self, release: int) -> None:
        """Take a release away: manifest first, so that nobody starts to read what then goes."""
        self.remove_file(manifest_path(release))
        self.remove_file(withdrawn_path(release))
        self.remove_claim(release)
        self.remove_parts(release)

    def remove_claim(self, release: int) -> None:
        """Take away the word that somebody is bringing a release here."""
        self.remove_file(claim_path(release))

    def remove_parts(self, release: int) -> None:
        """Take away the files of a release that is not published."""
        for part in Part:
            self._remove(part_path(part, release), recursive=True)

    def remove_unfinished(self, release: int, older_than_seconds: float) -> None:
        """Take away what the dead left half written; buckets show nothing of that kind."""
        if self._local is None:
            return
        oldest = time.time() - older_than_seconds
        for part in Part:
            home = part_path(part, release)
            with self._store_errors(home):
                for path in (self._local / home).rglob("*"):
                    with suppress(FileNotFoundError):  # finished since it was listed
                        if is_partial(path.name) and path.stat().st_mtime < oldest:
                            path.unlink()

    def remove_file(self, path: str) -> None:
        """Take one file away, if it is there."""
        self._remove(path, recursive=False)

    def _remove(self, path: str, *, recursive: bool) -> None:
        with self._store_errors(path):
            try:
                self._fs.rm(self._path(path), recursive=recursive)
            except FileNotFoundError:
                return

    def _names(self, folder: str) -> list[str]:
        try:
            with self._store_errors(folder):
                found: list[str] = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _relative(self, name: str) -> str:
        return name.removeprefix(f"{self._root}/")

    def _shown(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"

    def _not_found(self, release: int) -> ReleaseNotFoundError:
        return ReleaseNotFoundError(
            f"{self.url} has no release {release}; `python -m releases list` shows those it has"
        )

    @contextmanager
    def _store_errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (ReleaseError, FileExistsError):
            raise
        except Exception as error:  # clients of S3 and GCS have no common base for theirs
            if isinstance(error, FileNotFoundError) and not writing:
                raise  # of what is written it is the bucket that is not there
            where, why = self.url, str(error)
            if isinstance(error, OSError) and error.strerror:
                # The whole text may name an unfinished file, which has another name each time.
                where, why = self._shown(path), str(error.strerror)
            reason = " ".join(why.split()) or type(error).__name__
            raise StoreError(f"{where}: {reason}") from error


def _discard(stream: Any) -> None:
    """Give up what was sent of a file. A store that keeps it all the same shows it to nobody."""
    with suppress(Exception):
        stream.discard()
    with suppress(AttributeError):
        stream.closed = True  # else the collector of garbage would send the rest


def _releases(names: list[str], suffix: str) -> Iterator[int]:
    for name in names:
        if name.endswith(suffix) and (found := _RELEASE.fullmatch(name.removesuffix(suffix))):
            yield int(found[1])
