"""What tests of the mirror share."""

from collections.abc import Iterator
from pathlib import Path

from releases.layout import Part
from releases.manifest import Manifest
from releases.store import ReleaseStore

SERVED = (Part.MODEL, Part.INDEX)


def held(manifests: list[Manifest]) -> list[int]:
    return [manifest.release for manifest in manifests]


def damage_in_store(store: ReleaseStore, release: int) -> Path:
    path = Path(store.url) / f"indexes/items/{release}/items.faiss"
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    return path


class CountingStore(ReleaseStore):
    """Notes which files are read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []

    def chunks(self, path: str) -> Iterator[bytes]:
        self.read.append(path)
        return super().chunks(path)
