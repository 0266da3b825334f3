"""What an index is, as figures that people ask for."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from faiss_server._faiss import faiss
from faiss_server.index_files import IndexFolder
from faiss_server.index_kind import IndexKind

__all__ = ["Fact", "inspect_index"]

_MIB: Final = 1 << 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Fact:
    """One line of what is known."""

    name: str
    value: str


def inspect_index(folder: IndexFolder) -> list[Fact]:
    """Describe type, counts, balance of the lists, memory and checksums.

    Raises ReleaseRefusedError where the index cannot be served, ManifestError for a bad manifest.
    """
    kind = folder.read()
    return [
        *_kind(folder, kind), *_lists(kind), *_memory(kind, folder.index_file),
        *_checksums(folder),
    ]  # fmt: skip


def _kind(folder: IndexFolder, kind: IndexKind) -> Iterator[Fact]:
    info = folder.info()
    quantizer = faiss.downcast_index(kind.ivf.quantizer)
    yield Fact("type", info.type if info else type(kind.ivf).__name__)
    yield Fact("articles", f"{kind.index.ntotal}")
    yield Fact("dimension", f"{kind.index.d}")
    yield Fact("coarse quantizer", type(quantizer).__name__)
    yield Fact("articles reached by all lists", f"{kind.reached()}")
    yield Fact("nprobe in the file", f"{kind.ivf.nprobe}")
    if info is not None:
        yield Fact("nprobe", f"{info.nprobe} of {info.lists}")
        yield Fact("recall@200", f"{info.recall_at_200:.4f}")
    if kind.is_refined:
        yield Fact("refine factor", f"{kind.searched.k_factor:g}")


def _lists(kind: IndexKind) -> Iterator[Fact]:
    lists = faiss.downcast_InvertedLists(kind.ivf.invlists)
    sizes = np.array([lists.list_size(number) for number in range(kind.lists)])
    yield Fact("lists", f"{kind.lists}, {np.count_nonzero(sizes == 0)} of them empty")
    least, middle, most = np.percentile(sizes, [0, 50, 100])
    yield Fact("articles in a list", f"{least:.0f} to {most:.0f}, median {middle:.0f}")
    # How many times the articles of equal lists a query of the articles' own distribution scans.
    yield Fact("imbalance", f"{lists.imbalance_factor():.2f} (1: all lists are equal)")


def _memory(kind: IndexKind, file: Path) -> Iterator[Fact]:
    count = kind.index.ntotal
    yield Fact("bytes of codes by article", f"{kind.bytes_of_codes}")
    # Its id in a list, its id by position, and, without finer vectors, where in the lists it is.
    beside = 8 + 8 + (0 if kind.is_refined else 8)
    total = count * (kind.bytes_of_codes + beside)
    yield Fact("memory in a server", f"{total / _MIB:.1f} MiB")
    yield Fact("file", f"{file.stat().st_size / _MIB:.1f} MiB")


def _checksums(folder: IndexFolder) -> Iterator[Fact]:
    manifest = folder.manifest()
    listed = {} if manifest is None else {Path(e.path).name: e.sha256 for e in manifest.files}
    for path in sorted(folder.path.iterdir()):
        if path.suffix not in {".faiss", ".npz"}:
            continue
        found = _sha256(path)
        verdict = ""
        if manifest is not None:
            verdict = " as in the manifest" if listed.get(path.name) == found else " NOT as in it"
        yield Fact(f"sha256 of {path.name}", f"{found}{verdict}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
