"""ScaNN, in the asking process: a tree, quantized scores, and true scores for the best of those."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scann import scann_ops_pybind

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_TRAINED_ON = 250_000
_SCORED_AGAIN = 5
"""Times k: so many candidates get their true scores."""


def build(place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], _: Progress) -> None:
    """Build as ScaNN's documentation advises for a million vectors."""
    rows = np.ascontiguousarray(vectors)
    searcher = (
        scann_ops_pybind.builder(rows, place.k, "dot_product")
        .tree(
            num_leaves=place.settings["lists"],
            num_leaves_to_search=1,
            training_sample_size=min(len(rows), _TRAINED_ON),
        )
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(place.k * _SCORED_AGAIN)
        .build()
    )
    home = place.directory / "index"
    home.mkdir()
    searcher.serialize(str(home))
    np.save(place.directory / "ids.npy", ids)


def connect(place: Place, effort: int) -> Search:
    """Search on one thread; the effort is the number of leaves."""
    searcher, ids = _loaded(place.directory)
    again = place.k * _SCORED_AGAIN

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        rows, _ = searcher.search(
            query, place.k, leaves_to_search=effort, pre_reorder_num_neighbors=again
        )
        found: NDArray[np.int64] = ids[rows]
        return found

    return search


@cache
def _loaded(directory: Path) -> tuple[Any, NDArray[np.int64]]:
    searcher = scann_ops_pybind.load_searcher(str(directory / "index"))
    return searcher, np.load(directory / "ids.npy")


if __name__ == "__main__":
    run(build, connect)
