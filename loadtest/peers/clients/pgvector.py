"""PostgreSQL with pgvector, by psycopg: binary, prepared, one statement to a question."""

import os

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg import sql

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_CHUNK = 20_000
_COPIED = 0.3
"""Share of the whole that filling the table is, as the progress tells it."""
_IVFFLAT = "CREATE INDEX ON articles USING ivfflat (embedding vector_ip_ops) WITH (lists = {lists})"
_HNSW = """\
CREATE INDEX ON articles USING hnsw (embedding vector_ip_ops)
WITH (m = {m}, ef_construction = {ef_construction})"""
_SETTINGS = {"ivfflat": "ivfflat.probes", "hnsw": "hnsw.ef_search"}


def reach(place: Place) -> None:
    """Raise while the server takes no connection."""
    _connected(place).close()


def build(
    place: Place, vectors: NDArray[np.float32], ids: NDArray[np.int64], progress: Progress
) -> None:
    """Copy the vectors into a table, then build the index on all cores."""
    with _connected(place) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(
            sql.SQL("CREATE TABLE articles (id bigint PRIMARY KEY, embedding vector({}))").format(
                vectors.shape[1]
            )
        )
        copying = "COPY articles (id, embedding) FROM STDIN WITH (FORMAT BINARY)"
        with connection.cursor().copy(copying) as copy:
            copy.set_types(["int8", "vector"])
            for row, number in enumerate(ids.tolist()):
                copy.write_row((number, vectors[row]))
                if row % _CHUNK == 0:
                    progress(_COPIED * row / len(vectors))
        workers = (os.cpu_count() or 1) - 1  # beside the leader
        connection.execute(sql.SQL("SET max_parallel_maintenance_workers = {}").format(workers))
        connection.execute(_index(place))
        connection.execute("VACUUM (ANALYZE) articles")
        connection.execute("CHECKPOINT")


def connect(place: Place, effort: int) -> Search:
    """Search by a connection of its own; the effort is probes or ef_search."""
    connection = _connected(place)
    register_vector(connection)
    setting = _SETTINGS[place.settings["index"]]
    connection.execute(sql.SQL("SET {} = {}").format(sql.SQL(setting), effort))
    # The effort is to be that of the index: with much of it the planner would read the whole table.
    connection.execute("SET enable_seqscan = off")
    # One plan for all questions; no other would be chosen, and choosing takes time.
    connection.execute("SET plan_cache_mode = force_generic_plan")
    cursor = connection.cursor(binary=True)
    statement = f"SELECT id FROM articles ORDER BY embedding <#> %b LIMIT {place.k:d}"  # noqa: S608

    def search(query: NDArray[np.float32]) -> list[int]:
        return [row[0] for row in cursor.execute(statement, (query,), prepare=True)]

    return search


def _connected(place: Place) -> "psycopg.Connection[tuple[int, ...]]":
    return psycopg.connect(
        host="127.0.0.1", port=place.port, user="bench", dbname="postgres", autocommit=True
    )


def _index(place: Place) -> sql.Composed:
    numbers = {
        name: sql.Literal(value) for name, value in place.settings.items() if name != "index"
    }
    statement = _HNSW if place.settings["index"] == "hnsw" else _IVFFLAT
    return sql.SQL(statement).format(**numbers)


if __name__ == "__main__":
    run(build, connect, reach)
