"""A folder that workers on other machines see, for as long as they work."""

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import fsspec

__all__ = ["Elsewhere"]


class Elsewhere:
    """A new folder below a place, any fsspec URL; it goes with the context."""

    def __init__(self, place: str) -> None:
        self.url = f"{place.rstrip('/')}/recsys-{uuid.uuid4()}"
        system, self._path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        self._system: Any = system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._system.exists(self._path):
            self._system.rm(self._path, recursive=True)

    def bring(self, files: Sequence[Path]) -> list[str]:
        """Copy files there; answer where they are."""
        self._system.makedirs(f"{self._path}/brought", exist_ok=True)
        names = [f"brought/{number}-{file.name}" for number, file in enumerate(files)]
        for file, name in zip(files, names, strict=True):
            self._system.put_file(str(file), f"{self._path}/{name}")
        return [f"{self.url}/{name}" for name in names]

    def fetch(self, names: Iterable[str], directory: Path) -> None:
        """Copy files and folders from there into a folder here."""
        for name in names:
            found = self._system.find(f"{self._path}/{name}")
            if not found:
                raise FileNotFoundError(2, "the workers wrote nothing there", f"{self.url}/{name}")
            for path in found:
                copied = directory / path.removeprefix(self._path).lstrip("/")
                copied.parent.mkdir(parents=True, exist_ok=True)
                self._system.get_file(path, str(copied))
