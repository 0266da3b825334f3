"""Chroma, by its own HTTP client."""

from typing import Any

import chromadb
import numpy as np
from numpy.typing import NDArray

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_NAME = "articles"


def reach(place: Place) -> None:
    """Raise while the server does not answer."""
    _client(place).heartbeat()


def build(
    place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], progress: Progress
) -> None:
    """Add the vectors, as many at once as the server takes."""
    client = _client(place)
    hnsw = {
        "space": "ip",
        "max_neighbors": place.settings["m"],
        "ef_construction": place.settings["ef_construction"],
        # By default it is written out after every thousand vectors.
        "sync_threshold": place.settings["sync_threshold"],
    }
    collection = client.create_collection(
        _NAME, configuration={"hnsw": hnsw}, embedding_function=None
    )
    chunk = client.get_max_batch_size()
    for begin in range(0, len(vectors), chunk):
        rows = slice(begin, begin + chunk)
        collection.add(ids=[str(number) for number in ids[rows]], embeddings=vectors[rows])
        progress(min(1.0, (begin + chunk) / len(vectors)))
    # What was added last is indexed when it is asked for.
    collection.query(query_embeddings=[vectors[0]], n_results=1, include=[])


def connect(place: Place, effort: int) -> Search:
    """Search by a client of its own; the effort is ef_search."""
    collection = _client(place).get_collection(_NAME, embedding_function=None)
    if collection.configuration["hnsw"]["ef_search"] != effort:
        collection.modify(configuration={"hnsw": {"ef_search": effort}})

    def search(query: NDArray[np.float32]) -> list[int]:
        found = collection.query(query_embeddings=[query], n_results=place.k, include=[])
        return [int(number) for number in found["ids"][0]]

    return search


def _client(place: Place) -> Any:
    settings = chromadb.Settings(anonymized_telemetry=False)
    return chromadb.HttpClient(host="127.0.0.1", port=place.port, settings=settings)


if __name__ == "__main__":
    run(build, connect, reach)
