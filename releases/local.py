"""Releases on local disk, as `pull` leaves them and servers find them."""

import fcntl
import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from releases._atomic import partial_name
from releases.checksums import file_sizes, find_problems, read_chunks
from releases.errors import ManifestError
from releases.layout import MANIFESTS, Part, manifest_path, part_path
from releases.manifest import Manifest, parse_manifest

__all__ = [
    "at_work",
    "discard",
    "local_manifests",
    "local_problems",
    "local_releases",
    "remove_local",
]

logger = logging.getLogger(__name__)


def local_manifests(into: Path, parts: Collection[Part]) -> list[Manifest]:
    """Manifests of the releases whose `parts` are all on local disk, newest first.

    A manifest that cannot be read counts as absent: the next pull fetches it anew.
    """
    manifests = []
    for path in (into / MANIFESTS).glob("[1-9]*.json"):
        try:
            manifest = parse_manifest(path.read_bytes(), str(path))
        except FileNotFoundError:
            continue  # removed since it was listed
        except ManifestError as error:
            logger.warning("left out: %s", error)
            continue
        if all((into / part_path(part, manifest.release)).is_dir() for part in parts):
            manifests.append(manifest)
    return sorted(manifests, key=lambda manifest: manifest.release, reverse=True)


def local_releases(into: Path, parts: Collection[Part]) -> set[int]:
    """Releases of which any of the parts is on local disk, with or without a manifest."""
    return {
        int(path.name)
        for part in parts
        for path in (into / part.value).glob("[1-9]*")
        if path.name.isdecimal() and path.is_dir()
    }


def local_problems(into: Path, manifest: Manifest, part: Part) -> Iterator[str]:
    """Read a part on local disk and say what differs from the manifest."""
    return find_problems(
        manifest.part_files(part),
        file_sizes(into, manifest.release, [part]),
        lambda path: read_chunks(into / path),
    )


def remove_local(into: Path, release: int, parts: Collection[Part]) -> None:
    """Take parts of a release off the local disk, the manifest first."""
    with at_work(into):
        (into / manifest_path(release)).unlink(missing_ok=True)
        for part in parts:
            discard(into / part_path(part, release))


def discard(directory: Path) -> None:
    """Remove a directory, if it is there, so that nobody sees it half empty."""
    aside = partial_name(directory)
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


@contextmanager
def at_work(into: Path) -> Iterator[None]:
    """Hold the sign that something below `into` is unfinished, and first clear up after the dead.

    Everyone at work shares a lock, which the kernel gives up for a process that dies. Who can
    have it alone knows that all unfinished directories belong to the dead; unlike an age, this
    neither hits a slow download nor lets a crash loop fill the disk.
    """
    into.mkdir(parents=True, exist_ok=True)
    with (into / ".pull.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.debug("%s: others are at work, nothing is cleared up", into)
        else:
            _remove_unfinished(into)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _remove_unfinished(into: Path) -> None:
    for folder in (MANIFESTS, *(part.value for part in Part)):
        for path in (into / folder).glob(".*.partial"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
