"""Milvus, by pymilvus."""

import itertools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_NAME = "articles"
_CHUNK = 20_000
_LOOK_SECONDS = 1.0
_BUILD = {"IVF_FLAT": ("nlist",), "HNSW": ("M", "efConstruction")}
_EFFORT = {"IVF_FLAT": "nprobe", "HNSW": "ef"}
_numbers = itertools.count()


def reach(place: Place) -> None:
    """Raise while the server does not answer."""
    alias = _connected(place)
    try:
        utility.list_collections(using=alias)
    finally:
        connections.disconnect(alias)


def build(
    place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], progress: Progress
) -> None:
    """Insert, seal, merge the segments, index them, and load them."""
    alias = _connected(place)
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True),
        FieldSchema("embedding", DataType.FLOAT_VECTOR, dim=vectors.shape[1]),
    ]
    collection = Collection(_NAME, CollectionSchema(fields), using=alias, shards_num=1)
    for begin in range(0, len(vectors), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        collection.insert([ids[rows], np.ascontiguousarray(vectors[rows])])
        progress(min(1.0, (begin + _CHUNK) / len(vectors)))
    collection.flush()
    collection.compact()
    collection.wait_for_compaction_completed()
    kind = place.settings["index"]
    collection.create_index(
        "embedding",
        {
            "index_type": kind,
            "metric_type": "IP",
            "params": {name: place.settings[name] for name in _BUILD[kind]},
        },
    )
    _wait_until_indexed(alias, len(vectors))
    collection.load()


def connect(place: Place, effort: int) -> Search:
    """Search by a connection of its own; the effort is nprobe or ef."""
    collection = Collection(_NAME, using=_connected(place))
    collection.load()
    parameters = {
        "metric_type": "IP",
        "params": {_EFFORT[place.settings["index"]]: effort},
    }

    def search(query: NDArray[np.float32]) -> list[int]:
        found: Any = collection.search(
            [query], "embedding", parameters, place.k, consistency_level="Eventually"
        )
        return list(found[0].ids)

    return search


def _connected(place: Place) -> str:
    alias = f"client-{next(_numbers)}"
    connections.connect(alias, host="127.0.0.1", port=str(place.port))
    return alias


def _wait_until_indexed(alias: str, count: int) -> None:
    while utility.index_building_progress(_NAME, using=alias)["indexed_rows"] < count:
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    run(build, connect, reach)
