"""BigQuery's REST API as far as collecting speaks it, executing what it is sent in DuckDB.

What a client gets wrong here, it gets wrong there: the text is parsed as BigQuery's dialect, jobs
have to be inserted and asked for, and a job that would read more than it may be billed is refused.
"""

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import sqlglot

from pipeline.collect.sql import for_duckdb

PROJECT = "shop"
BYTES_OF_A_ROW = 100

_EXPORT = re.compile(
    r"EXPORT DATA OPTIONS\(uri='([^']*)/part-\*\.parquet', format='PARQUET', "
    r"overwrite=true\) AS (.*)",
    re.DOTALL,
)
_SUFFIXES = re.compile(r"_TABLE_SUFFIX BETWEEN '(\d{8})' AND '(\d{8})'")
_TYPES = {"BIGINT": "INTEGER", "HUGEINT": "INTEGER", "DATE": "DATE", "VARCHAR": "STRING"}


@dataclass
class FakeBigQuery:
    """A project with one log, `analytics.events_*`; other tables come as they are created."""

    connection: duckdb.DuckDBPyConnection
    url: str = ""
    queries: list[dict[str, Any]] = field(default_factory=list)
    fail_with: tuple[int, str, str] | None = None
    """Status, reason and message of the answer to the next query that merges."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_day(self, day: str, parquet: Path) -> None:
        """Add a daily table."""
        self.connection.execute(
            f"INSERT INTO log SELECT event_name, event_timestamp, event_params, user_id, "
            f"user_pseudo_id, '{day}' FROM read_parquet('{parquet}')"
        )

    def run(self, query: dict[str, Any]) -> dict[str, Any]:
        """Execute a query job and answer its resource, with rows beside it."""
        text = query["query"]
        self.queries.append(query)
        scanned = self._bytes_of(text)
        limit = query.get("maximumBytesBilled")
        if limit is not None and scanned > int(limit):
            raise _Refusal(
                400, "bytesBilledLimitExceeded",
                f"Query exceeded limit for bytes billed: {limit}. {scanned} or higher required.",
            )  # fmt: skip
        if self.fail_with and "MERGE" in text:
            refusal, self.fail_with = self.fail_with, None
            raise _Refusal(*refusal)
        export = _EXPORT.fullmatch(text.strip())
        if export:
            folder = Path(urlsplit(export[1]).path)
            folder.mkdir(parents=True, exist_ok=True)
            self.connection.execute(
                f"COPY ({self._local(export[2])}) TO '{folder}/part-0.parquet' (FORMAT parquet)"
            )
            return {"bytes": scanned, "schema": [], "rows": [], "dml": None}
        done = self.connection.execute(self._local(text))
        columns, rows = done.description or [], done.fetchall()
        is_dml = text.lstrip().startswith("MERGE")
        return {
            "bytes": scanned,
            "schema": [] if is_dml else [(c[0], _TYPES.get(str(c[1]), "STRING")) for c in columns],
            "rows": [] if is_dml or text.lstrip().startswith(("CREATE", "ALTER")) else rows,
            "dml": rows[0][0] if is_dml else None,
        }

    def _local(self, text: str) -> str:
        (statement,) = sqlglot.parse(text, read="bigquery")
        for table in statement.find_all(sqlglot.exp.Table):
            if table.db:
                name = "log" if table.name.startswith("events_") else f"{table.db}_{table.name}"
                table.replace(sqlglot.exp.to_table(name, alias=table.alias or None))
        return for_duckdb(statement.sql(dialect="bigquery"))

    def _bytes_of(self, text: str) -> int:
        found = _SUFFIXES.search(text)
        if not found:
            return 0
        row = self.connection.execute(
            "SELECT count(*) FROM log WHERE _TABLE_SUFFIX BETWEEN ? AND ?", [found[1], found[2]]
        ).fetchone()
        return BYTES_OF_A_ROW * int(row[0] if row else 0)


class _Refusal(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@contextmanager
def fake_bigquery() -> Iterator[FakeBigQuery]:
    """Serve on a port of the kernel's choice."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'")
    connection.execute("""
        CREATE TABLE log (event_name VARCHAR, event_timestamp BIGINT,
            event_params STRUCT(key VARCHAR,
                "value" STRUCT(string_value VARCHAR, int_value BIGINT))[],
            user_id VARCHAR, user_pseudo_id VARCHAR, _TABLE_SUFFIX VARCHAR)
    """)
    fake = FakeBigQuery(connection)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        connection.close()


def _handler(fake: FakeBigQuery) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            assert self.path.split("?")[0] == f"/bigquery/v2/projects/{PROJECT}/jobs"
            query = body["configuration"]["query"]
            name = body["jobReference"].get("jobId") or uuid.uuid4().hex
            with fake.lock:
                try:
                    fake.jobs[name] = fake.run(query)
                except _Refusal as refusal:
                    self._answer_error(refusal)
                    return
            self._answer(self._job(name, query))

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            name = path.rpartition("/")[2]
            job = fake.jobs[name]
            if "/queries/" in path:
                self._answer(
                    {
                        "kind": "bigquery#getQueryResultsResponse",
                        "jobReference": {"projectId": PROJECT, "jobId": name},
                        "jobComplete": True,
                        "totalRows": str(len(job["rows"])),
                        "totalBytesProcessed": str(job["bytes"]),
                        "schema": {
                            "fields": [{"name": n, "type": t} for n, t in job["schema"]],
                        },
                        "rows": [
                            {"f": [{"v": None if v is None else str(v)} for v in row]}
                            for row in job["rows"]
                        ],
                    }
                )
            else:
                self._answer(self._job(name, {}))

        def _job(self, name: str, query: dict[str, Any]) -> dict[str, Any]:
            job = fake.jobs[name]
            statistics = {"totalBytesProcessed": str(job["bytes"])}
            if job["dml"] is not None:
                statistics["numDmlAffectedRows"] = str(job["dml"])
            return {
                "kind": "bigquery#job",
                "id": f"{PROJECT}:{name}",
                "jobReference": {"projectId": PROJECT, "jobId": name},
                "configuration": {"jobType": "QUERY", "query": query},
                "status": {"state": "DONE"},
                "statistics": {**statistics, "query": dict(statistics)},
            }

        def _answer_error(self, refusal: _Refusal) -> None:
            error = {"message": refusal.message, "reason": refusal.reason, "domain": "global"}
            document = {"code": refusal.status, "message": refusal.message, "errors": [error]}
            self._answer({"error": document}, refusal.status)

        def _answer(self, document: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
