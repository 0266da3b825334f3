"""The release that a new one has to stand beside: fetched from the store, and asked like it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.exported import ExportedModel
from releases.layout import Part
from releases.manifest import Manifest, parse_manifest
from releases.pull import pull
from releases.store import ReleaseStore

__all__ = ["ReleaseInService", "fetch_release_in_service", "manifest_in_service"]

_MANIFEST_FILE: Final = "in-service.json"


@dataclass(frozen=True)
class ReleaseInService:
    """A published release on local disk: what it says of itself, and its model and vectors."""

    manifest: Manifest
    exported: ExportedModel

    def keep_manifest_only(self) -> None:
        """Remove the model once it was asked; what it says of itself stays for the gate."""
        directory = self.exported.directory
        shutil.rmtree(directory)
        (directory.parent / _MANIFEST_FILE).write_text(self.manifest.model_dump_json() + "\n")


def manifest_in_service(directory: Path) -> Manifest | None:
    """Read the manifest that was kept; None where no release was in service."""
    path = directory / _MANIFEST_FILE
    return parse_manifest(path.read_bytes(), str(path)) if path.exists() else None


def fetch_release_in_service(store_url: str, workdir: Path) -> ReleaseInService | None:
    """Fetch the newest usable release of a store; None where there is none yet.

    Raises ReleaseError where it cannot be had whole: then nothing says how good it is, and it has
    to be mended or withdrawn before another takes its place.
    """
    store = ReleaseStore(store_url)
    usable = store.usable()
    if not usable:
        return None
    directory = workdir / "in-service"
    shutil.rmtree(directory, ignore_errors=True)
    manifest = pull(store, usable[0], directory, (Part.MODEL, Part.EMBEDDINGS))
    exported = ExportedModel(
        directory, manifest.release, manifest.dimension, manifest.article_count
    )
    return ReleaseInService(manifest, exported)
