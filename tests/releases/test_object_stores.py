"""Releases in real object stores' protocols, and copied from one cloud to the other."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.config import conf
from fsspec.registry import _registry
from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]

from releases.checksums import describe_files
from releases.errors import IncompleteReleaseError, ReleaseClaimedError, StoreError
from releases.layout import manifest_path
from releases.publish import copy_release, publish
from releases.store import ReleaseStore
from releases.transfer import copy_files
from releases.verify import verify
from tests.support.object_stores import (
    AWS_ENVIRONMENT,
    GCS_ENVIRONMENT,
    Request,
    ScriptedS3,
    gcs_server,
    s3_server,
)
from tests.support.releases import publish_tiny, stage_files, tiny_files, tiny_release

numbers = itertools.count()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[ScriptedS3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(s3_endpoint: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint.endpoint)
    yield s3_endpoint
    s3_endpoint.refuse = lambda _request: None
    s3_endpoint.after = lambda _request: None


@pytest.fixture
def s3_store(s3: ScriptedS3) -> ReleaseStore:
    bucket = s3.make_bucket(f"bucket-{next(numbers)}")
    s3.requests.clear()
    return ReleaseStore(f"{bucket}/store")


@pytest.fixture(scope="module")
def gcs_address() -> Iterator[str]:
    with gcs_server("bucket") as address:
        yield address


@pytest.fixture
def gcs_store(gcs_address: str, monkeypatch: pytest.MonkeyPatch) -> ReleaseStore:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{gcs_address}")
    monkeypatch.setitem(conf, "gcs", {"token": "anon"})
    # What GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false does where gcsfs has not been imported yet.
    monkeypatch.setitem(_registry, "gs", GCSFileSystem)
    return ReleaseStore(f"gs://bucket/{next(numbers)}")


def contents(store: ReleaseStore, release: int) -> dict[str, bytes]:
    return {path: b"".join(store.chunks(path)) for path in store.file_sizes(release)}


def refusing_after(files: int, status: str = "403 Forbidden"):
    """Let so many files of a release be stored, and no others."""
    count = itertools.count()

    def refuse(request: Request) -> str | None:
        is_file = request.method == "PUT" and "/store/releases/" not in request.path
        return status if is_file and next(count) >= files else None

    return refuse


def test_a_release_goes_from_google_to_amazon_to_a_folder(
    gcs_store: ReleaseStore, s3_store: ReleaseStore, disk_store: ReleaseStore, staging: Path
) -> None:
    manifest = publish_tiny(gcs_store, staging, 7)
    copied = copy_release(gcs_store, s3_store, 7)
    assert (copied.bytes_sent, copied.bytes_already_there) == (128, 0)
    copy_release(s3_store, disk_store, 7)
    for store in (gcs_store, s3_store, disk_store):
        assert verify(store, 7) == manifest
        assert contents(store, 7) == tiny_files(7)
        assert store.claimed() == set()
    copy_release(disk_store, ReleaseStore(f"{gcs_store.url}-back"), 7)


def test_of_two_publishers_to_s3_one_creates_the_claim(
    s3_store: ReleaseStore, staging: Path, tmp_path: Path, s3: ScriptedS3
) -> None:
    s3.refuse = refusing_after(0)
    with pytest.raises(StoreError):
        publish_tiny(s3_store, staging, 7, "first")
    with pytest.raises(ReleaseClaimedError, match="other contents at 20"):
        publish_tiny(s3_store, tmp_path / "other", 7, "second")


def test_the_manifest_is_the_last_that_is_stored(
    s3: ScriptedS3, s3_store: ReleaseStore, staging: Path
) -> None:
    publish_tiny(s3_store, staging, 7)
    claim, *files, manifest = s3.stored()
    assert claim == "releases/7.publishing"
    assert set(files) == set(tiny_files(7))
    assert manifest == manifest_path(7)


@pytest.mark.parametrize("stored", [0, 3, 6])
def test_after_an_error_in_the_middle_only_the_rest_is_sent(
    s3: ScriptedS3, s3_store: ReleaseStore, disk_store: ReleaseStore, staging: Path, stored: int
) -> None:
    publish_tiny(disk_store, staging, 7)
    s3.refuse = refusing_after(stored)
    with pytest.raises(StoreError) as caught:
        copy_release(disk_store, s3_store, 7)
    told = str(caught.value)
    assert "7/" in told.partition(": ")[0]
    assert f"not copied from {disk_store.url} to {s3_store.url}: {s3_store.url}/" in told
    assert "told to refuse" in told
    assert "\n" not in told
    assert s3_store.published() == []
    there = s3_store.file_sizes(7)
    assert len(there) == stored
    s3.refuse = lambda _request: None
    s3.requests.clear()
    copied = copy_release(disk_store, s3_store, 7)
    assert copied.bytes_already_there == sum(there.values())
    assert copied.bytes_sent == 128 - sum(there.values())
    assert set(s3.stored()) & set(tiny_files(7)) == set(tiny_files(7)) - set(there)
    verify(s3_store, 7)


def test_a_store_that_is_busy_for_a_moment_is_asked_again(
    s3: ScriptedS3, s3_store: ReleaseStore, staging: Path
) -> None:
    manifest = tiny_release(staging, 7)
    busy = {f"/{s3_store.url.removeprefix('s3://')}/{manifest.files[0].path}"}

    def refuse(request: Request) -> str | None:
        if request.method == "PUT" and request.path in busy:
            busy.remove(request.path)
            return "503 Slow Down"
        return None

    s3.refuse = refuse
    publish(s3_store, staging, manifest)
    assert not busy
    verify(s3_store, 7)


def test_a_byte_that_is_flipped_on_the_way_is_found_and_mended_by_a_repetition(
    s3: ScriptedS3, s3_store: ReleaseStore, staging: Path
) -> None:
    manifest = tiny_release(staging, 7)
    path = "models/user_tower/7/saved_model.pb"
    spoilt = bytes([tiny_files(7)[path][0] ^ 1]) + tiny_files(7)[path][1:]
    other = ReleaseStore(s3_store.url)

    def spoil(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith(path):
            s3.after = lambda _request: None
            other.put(path, spoilt)

    s3.after = spoil
    with pytest.raises(IncompleteReleaseError, match=rf"{s3_store.url}: {path}: has sha256"):
        publish(s3_store, staging, manifest)
    assert s3_store.published() == []
    counts: list[int] = []
    done = publish(s3_store, staging, manifest, counts.append)
    assert done.bytes_sent >= len(spoilt)
    assert sum(counts) == 3 * 128
    verify(s3_store, 7)


def test_a_large_file_goes_in_parts_and_shows_only_when_it_is_whole(
    s3: ScriptedS3, s3_store: ReleaseStore, staging: Path
) -> None:
    name = "embeddings/items/7/vectors.npy"
    stage_files(staging, tiny_files(7) | {name: os.urandom(17 << 20)})
    (entry,) = (entry for entry in describe_files(staging, 7) if entry.path == name)
    source = ReleaseStore(str(staging))
    s3.refuse = lambda request: "403 Forbidden" if "partNumber=3" in request.query else None
    with pytest.raises(StoreError, match=name):
        copy_files(source, s3_store, [entry])
    assert s3_store.size(name) is None
    uploads = s3.client().list_multipart_uploads(Bucket=s3_store.url.split("/")[2])
    assert "Uploads" not in uploads  # parts that nobody puts together would be paid for
    s3.refuse = lambda _request: None
    assert copy_files(source, s3_store, [entry]).bytes_sent == entry.size
    assert s3_store.size(name) == entry.size


def test_a_bucket_that_is_not_there_is_a_store_error_of_one_line(
    s3: ScriptedS3, staging: Path
) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/store: [^\n]+$"):
        publish_tiny(ReleaseStore("s3://nowhere/store"), staging, 7)


def test_the_command_copies_between_clouds_as_the_environment_says(
    s3: ScriptedS3, gcs_address: str, gcs_store: ReleaseStore, s3_store: ReleaseStore, staging: Path
) -> None:
    publish_tiny(gcs_store, staging, 7)
    environment = os.environ | GCS_ENVIRONMENT | {"PYTHONWARNINGS": "error::ResourceWarning"}
    command = [sys.executable, "-m", "releases", "copy", "7"]
    command += ["--from", gcs_store.url, "--to", s3_store.url]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    first, second = run(), run()
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "release 7 is published: 128 bytes sent, 0 were there\n"
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == "release 7 is published: 0 bytes sent, 128 were there\n"
    verify(s3_store, 7)
