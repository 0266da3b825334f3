"""An index on disk, for people's commands: a folder with the index and what is known of it.

That is `index.json` where `python -m faiss_server build` wrote the folder, and the manifest where
the folder lies in a store.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.article_index import ArticleIndex, article_index_of, read_index_kind
from faiss_server.build import BuiltIndex, write_index
from faiss_server.build_errors import BuildError
from faiss_server.curve_page import curve_page
from faiss_server.index_kind import IndexKind
from releases._atomic import replacing
from releases.layout import ARTICLE_IDS_FILE, ARTICLE_VECTORS_FILE, INDEX_FILE, manifest_path
from releases.manifest import IndexInfo, Manifest, parse_manifest

__all__ = ["IndexFolder", "map_ids", "map_vectors", "write_folder"]

_INFO_FILE: Final = "index.json"
_PAGE_FILE: Final = "index.html"


@dataclass(frozen=True)
class IndexFolder:
    """A folder with an index."""

    path: Path

    @property
    def index_file(self) -> Path:
        """The faiss index."""
        return self.path / INDEX_FILE

    def manifest(self) -> Manifest | None:
        """Read the manifest of the store that the folder lies in; None: it lies in none."""
        release, parents = self.path.resolve().name, self.path.resolve().parents
        if not release.isdecimal() or len(parents) < 3:
            return None
        file = parents[2] / manifest_path(int(release))
        return parse_manifest(file.read_bytes(), str(file)) if file.exists() else None

    def refuse_published(self) -> None:
        """Raise BuildError where the folder is part of a published release."""
        if self.manifest() is not None:
            raise BuildError(
                f"{self.path} is a published release, which never changes: take another folder, "
                "or a copy"
            )

    def info(self) -> IndexInfo | None:
        """Read how the index is searched; None: nobody says."""
        file = self.path / _INFO_FILE
        if file.exists():
            return IndexInfo.model_validate_json(file.read_bytes())
        manifest = self.manifest()
        return None if manifest is None else manifest.index

    def read(self) -> IndexKind:
        """Read the index as it is; raises ReleaseRefusedError."""
        return read_index_kind(self.index_file)

    def open(self) -> ArticleIndex:
        """Read the index to be searched as a server does; raises ReleaseRefusedError."""
        info = self.info()
        return article_index_of(
            self.read(), self.index_file, 1.0 if info is None else info.refine_factor
        )


def write_folder(built: BuiltIndex, folder: Path) -> None:
    """Write the index, what is known of it, and its curve as a page."""
    write_index(built, folder / INDEX_FILE)
    info = built.info
    for name, text in (
        (_INFO_FILE, info.model_dump_json(indent=1) + "\n"),
        (_PAGE_FILE, curve_page(info)),
    ):
        with replacing(folder / name) as stream:
            stream.write(text.encode())


def map_vectors(path: Path) -> NDArray[np.float32]:
    """Map float32[n, d] from a .npy file, or from a folder of embeddings; raises BuildError."""
    return _mapped(path / ARTICLE_VECTORS_FILE if path.is_dir() else path)


def map_ids(path: Path | None, vectors: Path, count: int) -> NDArray[np.int64]:
    """Read int64[n] from a .npy file; without one, from beside the vectors, or 0, 1, ...

    Raises BuildError.
    """
    if path is None and vectors.is_dir():
        path = vectors / ARTICLE_IDS_FILE
    return np.arange(count) if path is None else np.array(_mapped(path))


def _mapped(path: Path) -> NDArray[np.float32]:
    try:
        array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: is no .npy file that can be read: {error}") from None
    return array
