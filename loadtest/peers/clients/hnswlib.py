"""hnswlib, in the asking process."""

from functools import cache
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_CHUNK = 20_000


def build(
    place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], progress: Progress
) -> None:
    """Build on all cores."""
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(
        len(vectors), M=place.settings["m"], ef_construction=place.settings["ef_construction"]
    )
    for begin in range(0, len(vectors), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        index.add_items(vectors[rows], ids[rows])
        progress(min(1.0, (begin + _CHUNK) / len(vectors)))
    index.save_index(str(_file(place)))


def connect(place: Place, effort: int) -> Search:
    """Search on one thread; the effort is ef."""
    index = _loaded(_file(place), place.settings["dimension"])
    index.set_num_threads(1)
    index.set_ef(effort)

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = index.knn_query(query, place.k)[0][0]
        return labels

    return search


@cache
def _loaded(path: Path, dimension: int) -> Any:
    index = hnswlib.Index("ip", dimension)
    index.load_index(str(path))
    return index


def _file(place: Place) -> Path:
    return place.directory / "index.hnsw"


if __name__ == "__main__":
    run(build, connect)
