"""faiss without a server: the index file of this project's release, in the asking process."""

import os

if __name__ == "__main__":
    # Read when faiss is imported. A build takes all cores, a search one.
    os.environ["OMP_NUM_THREADS"] = os.environ.get("BENCH_THREADS", "1")

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from faiss_server.build import build_index
from faiss_server.index_kind import IndexKind
from loadtest.peers.clients.protocol import Place, Progress, Search, run

_FEW = 16


def build(place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], _: Progress) -> None:
    """Train and fill the index of the release once more: to see how long that takes.

    The queries are few and the recall asked for is low, so that hardly any time goes into nprobe.
    """
    rows = np.ascontiguousarray(vectors)
    build_index(rows, ids, rows[:_FEW], recall_target=0.01, k=place.k)


def connect(place: Place, effort: int) -> Search:
    """Search the release's index; the effort is nprobe."""
    index = faiss.read_index(str(Path(place.settings["index"])))
    kind = IndexKind.of(index)
    parameters = kind.parameters(effort, kind.default_refine_factor)

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = index.search(query[None], place.k, params=parameters)[1][0]
        return found

    return search


if __name__ == "__main__":
    run(build, connect)
