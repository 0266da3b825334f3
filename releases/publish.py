"""Putting a finished release into a store: files first, manifest last."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from releases._claim import Claim
from releases.checksums import OnBytes, file_sizes, find_problems, ignore_bytes, read_chunks
from releases.errors import IncompleteReleaseError, ReleaseExistsError
from releases.layout import manifest_path
from releases.manifest import Manifest
from releases.rollout import Wait, wait_for_service
from releases.store import ReleaseStore

__all__ = ["publish"]

_UPLOADS: Final = 4
_PATIENTLY: Final = Wait()


def publish(
    store: ReleaseStore,
    staging: Path,
    manifest: Manifest,
    on_bytes: OnBytes = ignore_bytes,
    *,
    take_over: bool = False,
    wait: Wait | None = _PATIENTLY,
) -> None:
    """Copy a release from `staging`, a folder laid out as a store, into the store.

    The release becomes visible in one step, at the end. Before that it will `wait` for the previous
    release to come into service everywhere, since servers hold two (None: it does not care). A
    publish that died half-way is repeated by calling this again with the same contents; with others
    only if told to `take_over`, which is safe once the first publisher is dead. `on_bytes` hears of
    every byte twice: when checked and when stored.
    Raises ReleaseExistsError, ReleaseClaimedError while other contents are being published under
    this id, NotInServiceError, or IncompleteReleaseError naming the files that are not what the
    manifest says.
    """
    document = manifest.model_dump_json(indent=1).encode() + b"\n"
    claim = Claim(store, manifest.release, hashlib.sha256(document).hexdigest())
    _refuse_published(store, manifest)
    _check_staging(staging, manifest, on_bytes)
    claim.take(take_over=take_over)
    if store.is_published(manifest.release):  # since the first look
        claim.remove()
        raise _exists(store, manifest)
    _remove_leftovers(store, manifest)
    _upload(store, staging, manifest, on_bytes)
    _check_stored_sizes(store, manifest)
    if wait is not None:
        wait_for_service(store, manifest.release, wait)
    _refuse_published(store, manifest)
    claim.check()
    try:
        store.create(manifest_path(manifest.release), document)
    except FileExistsError:
        raise _exists(store, manifest) from None
    claim.remove()


def _upload(store: ReleaseStore, staging: Path, manifest: Manifest, on_bytes: OnBytes) -> None:
    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="publish") as uploads:
        waiting = [
            uploads.submit(store.upload, staging / entry.path, entry.path, on_bytes)
            for entry in manifest.files
        ]
        try:
            for upload in waiting:
                upload.result()
        except BaseException:
            uploads.shutdown(wait=False, cancel_futures=True)
            raise


def _refuse_published(store: ReleaseStore, manifest: Manifest) -> None:
    if store.is_published(manifest.release):
        raise _exists(store, manifest)


def _exists(store: ReleaseStore, manifest: Manifest) -> ReleaseExistsError:
    return ReleaseExistsError(
        f"{store.url} already has release {manifest.release}; a release is never changed: "
        "publish under a new id"
    )


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
    """What a dead publish left is overwritten, unless this release has no file of that name."""
    expected = {entry.path for entry in manifest.files}
    for path in store.file_sizes(manifest.release).keys() - expected:
        store.remove_file(path)


def _check_stored_sizes(store: ReleaseStore, manifest: Manifest) -> None:
    """Catch an upload that ended early without an error."""
    stored = store.file_sizes(manifest.release)
    lost = [entry.path for entry in manifest.files if stored.get(entry.path) != entry.size]
    if lost:
        raise IncompleteReleaseError(
            f"{store.url}: these files did not arrive whole, publish again: {', '.join(lost)}"
        )
