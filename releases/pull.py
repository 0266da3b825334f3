"""Fetching a release to local disk: verified on the way, visible only when complete."""

import errno
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from releases._atomic import partial_name, replacing, sync_to_disk
from releases.checksums import OnBytes, ignore_bytes, problem_of
from releases.errors import IncompleteReleaseError, LocalDiskError
from releases.layout import Part, manifest_path, part_path
from releases.local import at_work, discard, local_problems
from releases.manifest import FileEntry, Manifest
from releases.store import ReleaseStore

__all__ = ["pull"]

logger = logging.getLogger(__name__)


def pull(
    store: ReleaseStore,
    release: int,
    into: Path,
    parts: Collection[Part],
    on_bytes: OnBytes = ignore_bytes,
    make_room: Callable[[], object] = lambda: None,
) -> Manifest:
    """Make the parts of a published release, and its manifest, available below `into`.

    `make_room` is called when all is fetched and verified, before anything of it is visible. What
    is there already is verified, and fetched again if damaged. Several processes may pull into one
    place. Raises ReleaseNotFoundError, ManifestError, StoreError, IncompleteReleaseError naming the
    file and what differs, or LocalDiskError; in each case nothing incomplete is visible.
    """
    manifest = store.manifest(release)
    with _disk_errors(into, release), at_work(into), ExitStack() as unfinished:
        wanted = [part for part in parts if not _keep_or_discard(into, manifest, part)]
        fetched = {
            part: unfinished.enter_context(_fetched(store, manifest, part, into, on_bytes))
            for part in wanted
        }
        make_room()
        for part, directory in fetched.items():
            _install(directory, manifest, part, into)
        _write_manifest(into, manifest)
    return manifest


def _keep_or_discard(into: Path, manifest: Manifest, part: Part) -> bool:
    """Whether there is a sound local copy; a damaged one goes at once, its manifest first."""
    target = into / part_path(part, manifest.release)
    if not target.exists():
        return False
    problem = next(local_problems(into, manifest, part), None)
    if problem is None:
        return True
    logger.warning("local copy is damaged and fetched again: %s", problem)
    (into / manifest_path(manifest.release)).unlink(missing_ok=True)
    discard(target)
    return False


@contextmanager
def _fetched(
    store: ReleaseStore, manifest: Manifest, part: Part, into: Path, on_bytes: OnBytes
) -> Iterator[Path]:
    home = part_path(part, manifest.release)
    if not manifest.part_files(part):
        raise IncompleteReleaseError(f"{store.url}: {home}: the manifest names no files of it")
    unfinished = partial_name(into / home)
    unfinished.mkdir(parents=True)
    try:
        for entry in manifest.part_files(part):
            _fetch_file(store, entry, unfinished / entry.path.removeprefix(home + "/"), on_bytes)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fetch_file(store: ReleaseStore, entry: FileEntry, target: Path, on_bytes: OnBytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as stream:

        def use(chunk: bytes) -> None:
            stream.write(chunk)
            on_bytes(len(chunk))

        try:
            problem = problem_of(entry, store.chunks(entry.path), use)
        except FileNotFoundError:
            problem = f"{entry.path}: is missing"
        if problem is not None:
            raise IncompleteReleaseError(f"{store.url}: {problem}")
        sync_to_disk(stream)


def _install(unfinished: Path, manifest: Manifest, part: Part, into: Path) -> None:
    target = into / part_path(part, manifest.release)
    while True:
        try:
            unfinished.rename(target)
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        # Another process was faster. Its copy is as good as this one, unless it is not.
        if next(local_problems(into, manifest, part), None) is None:
            return
        discard(target)


def _write_manifest(into: Path, manifest: Manifest) -> None:
    path = into / manifest_path(manifest.release)
    document = manifest.model_dump_json(indent=1).encode() + b"\n"
    with suppress(FileNotFoundError):
        # Rewriting the same would look like a change to others who mirror into this place.
        if path.read_bytes() == document:
            return
    with replacing(path) as stream:
        stream.write(document)


@contextmanager
def _disk_errors(into: Path, release: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LocalDiskError(f"{into}: cannot take release {release}: {reason}") from error
