"""Putting a finished release into a store: files first, manifest last."""

from pathlib import Path
from typing import Final

from releases._claim import DEAD_SECONDS, claim_to_publish
from releases.checksums import OnBytes, file_sizes, find_problems, ignore_bytes, read_chunks
from releases.errors import IncompleteReleaseError, ReleaseNotFoundError
from releases.layout import manifest_path
from releases.manifest import Manifest
from releases.rollout import Wait, wait_for_service
from releases.store import ReleaseStore
from releases.transfer import Transferred, copy_files

__all__ = ["copy_release", "publish"]

_PATIENTLY: Final = Wait()


def publish(
    store: ReleaseStore,
    staging: Path,
    manifest: Manifest,
    on_bytes: OnBytes = ignore_bytes,
    *,
    take_over: bool = False,
    wait: Wait | None = _PATIENTLY,
) -> Transferred:
    """Copy a release from `staging`, a folder laid out as a store, into the store.

    The release becomes visible in one step, at the end. Before that it will `wait` for the previous
    release to come into service everywhere, since servers hold two (None: it does not care). A
    publish that died, at whatever moment, is repeated by calling this again with the same contents;
    with others only if told to `take_over`, which is safe once the first publisher is dead. What is
    in the store already and sound, since `copy_ahead` or a dead publisher put it there, is not sent
    again. `on_bytes` hears of every byte three times: when checked, when stored and when read back.
    Raises ReleaseExistsError where this id is published with other contents, or withdrawn,
    ReleaseClaimedError while others are being published under it, NotInServiceError, StoreError, or
    IncompleteReleaseError naming the files that are not what the manifest says.
    """
    if _is_finished(store, manifest):
        return _nothing_sent(manifest)
    _check_staging(staging, manifest, on_bytes)
    source = ReleaseStore(str(staging))
    return _publish_from(source, store, manifest, on_bytes, take_over=take_over, wait=wait)


def copy_release(
    source: ReleaseStore,
    target: ReleaseStore,
    release: int,
    on_bytes: OnBytes = ignore_bytes,
    *,
    take_over: bool = False,
    wait: Wait | None = _PATIENTLY,
) -> Transferred:
    """Copy a published release to another store, where it is published in the same way.

    `on_bytes` hears of every byte twice: when stored and when read back. Raises what `publish`
    raises, and ReleaseNotFoundError where the source has no such release, or has withdrawn it.
    """
    manifest = source.manifest(release)
    if release in source.withdrawn():
        raise ReleaseNotFoundError(f"{source.url}: release {release} is withdrawn: copy another")
    if _is_finished(target, manifest):
        return _nothing_sent(manifest)
    return _publish_from(source, target, manifest, on_bytes, take_over=take_over, wait=wait)


def _publish_from(
    source: ReleaseStore,
    store: ReleaseStore,
    manifest: Manifest,
    on_bytes: OnBytes,
    *,
    take_over: bool,
    wait: Wait | None,
) -> Transferred:
    claim = claim_to_publish(store, manifest, _document(manifest))
    claim.take(take_over=take_over)
    if _is_finished(store, manifest):  # since the first look
        return _nothing_sent(manifest)
    _remove_leftovers(store, manifest)
    transferred = copy_files(source, store, manifest.files, on_bytes)
    _check_stored_sizes(store, manifest)
    if wait is not None:
        wait_for_service(store, manifest.release, wait)
    if _is_finished(store, manifest):
        return transferred
    claim.check()
    try:
        store.create(manifest_path(manifest.release), _document(manifest))
    except FileExistsError:  # another's, or ours: clients ask again where an answer was lost
        if not _is_finished(store, manifest):
            raise store.exists_error(manifest.release) from None
    else:
        claim.remove()
    return transferred


def _is_finished(store: ReleaseStore, manifest: Manifest) -> bool:
    """Whether this very release is published; what was left of its claim is then removed.

    Raises ReleaseExistsError where it is published with other contents, or withdrawn.
    """
    release = manifest.release
    listing = store.listing()
    if release not in listing.published:
        return False
    store.remove_claim(release)
    stored = store.read_file(manifest_path(release))
    if release in listing.withdrawn or stored != _document(manifest):
        raise store.exists_error(release)
    return True


def _document(manifest: Manifest) -> bytes:
    """Write the manifest as it is stored."""
    return manifest.model_dump_json(indent=1).encode() + b"\n"


def _nothing_sent(manifest: Manifest) -> Transferred:
    return Transferred(0, sum(entry.size for entry in manifest.files))


def _check_staging(staging: Path, manifest: Manifest, on_bytes: OnBytes) -> None:
    problems = list(
        find_problems(
            manifest.files,
            file_sizes(staging, manifest.release),
            lambda path: read_chunks(staging / path),
            on_bytes,
        )
    )
    if problems:
        raise IncompleteReleaseError(f"{staging}: {'; '.join(problems)}")


def _remove_leftovers(store: ReleaseStore, manifest: Manifest) -> None:
    """What a dead publish left is overwritten, unless this release has no file of that name.

    What is unfinished may be of another who publishes the same, unless it is old.
    """
    expected = {entry.path for entry in manifest.files}
    for path in store.file_sizes(manifest.release).keys() - expected:
        store.remove_file(path)
    store.remove_unfinished(manifest.release, DEAD_SECONDS)


def _check_stored_sizes(store: ReleaseStore, manifest: Manifest) -> None:
    """Catch what somebody took away again since it was read back: prune, or one who gave up."""
    stored = store.file_sizes(manifest.release)
    lost = [entry.path for entry in manifest.files if stored.get(entry.path) != entry.size]
    if lost:
        raise IncompleteReleaseError(
            f"{store.url}: these files are no longer there, publish again: {', '.join(lost)}"
        )
