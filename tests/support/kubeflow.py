"""The REST API of Kubeflow Pipelines as far as deploying speaks it, of the client's own models.

What the client sends is read into the model that it names and refused with a field that this does
not have; names are unique as they are there, and listings come in pages of two.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api

_PAGE = 2
_API = "/apis/v2beta1"


@dataclass
class FakeKubeflow:
    """What a cluster holds, and what it was asked, in order."""

    url: str = ""
    pipelines: list[api.V2beta1Pipeline] = field(default_factory=list)
    versions: list[api.V2beta1PipelineVersion] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    """By the id of the version."""
    experiments: list[api.V2beta1Experiment] = field(default_factory=list)
    recurring_runs: list[api.V2beta1RecurringRun] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request that changes something."""
    fail_at: str | None = None
    """A pattern: the next request that it matches is answered with 500."""

    def answer(self, method: str, target: str, body: bytes, kind: str) -> Any:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        line = f"{method} {parts.path.removeprefix(_API)}"
        if method != "GET":
            self.asked.append(line)
        if self.fail_at and re.search(self.fail_at, line):
            self.fail_at = None
            raise _RefusalError(500, "the database went away")
        for pattern, handle in self._routes():
            if found := re.fullmatch(pattern, line):
                return handle(_Request(query, body, kind, *found.groups()))
        raise _RefusalError(404, f"no {line}")

    def _routes(self) -> list[tuple[str, Callable[["_Request"], Any]]]:
        return [
            ("GET /healthz", lambda _: api.V2beta1GetHealthzResponse(multi_user=False)),
            ("GET /pipelines", lambda asked: self._list("Pipelines", self.pipelines, asked)),
            ("POST /pipelines/upload", self._upload),
            ("POST /pipelines/upload_version", self._upload_version),
            ("GET /pipelines/([^/]+)/versions", self._list_versions),
            ("GET /experiments", lambda asked: self._list("Experiments", self.experiments, asked)),
            ("POST /experiments", self._create_experiment),
            ("GET /recurringruns", self._list_runs),
            ("POST /recurringruns", self._create_run),
            ("POST /recurringruns/([^/:]+):disable", self._disable_run),
            ("DELETE /recurringruns/([^/:]+)", self._delete_run),
        ]

    def _list(self, name: str, there: list[Any], asked: "_Request") -> Any:
        predicates = json.loads(asked.query.get("filter", "{}")).get("predicates", [])
        for each in predicates:
            assert each["operation"] in {1, "EQUALS"}
            there = [one for one in there if getattr(one, each["key"]) == each["stringValue"]]
        begin = int(asked.query.get("page_token") or 0)
        page, rest = there[begin : begin + _PAGE], there[begin + _PAGE :]
        field_name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        # As the real one does: a field without a value is left out, an empty list too.
        return getattr(api, f"V2beta1List{name}Response")(
            **{field_name: page or None}, next_page_token=str(begin + _PAGE) if rest else None
        )

    def _upload(self, asked: "_Request") -> api.V2beta1Pipeline:
        name = asked.query["name"]
        _refuse_taken(self.pipelines, name)
        pipeline = api.V2beta1Pipeline(pipeline_id=str(uuid.uuid4()), display_name=name)
        self.pipelines.append(pipeline)
        self._add_version(name, pipeline.pipeline_id, asked)
        return pipeline

    def _upload_version(self, asked: "_Request") -> api.V2beta1PipelineVersion:
        return self._add_version(asked.query["name"], asked.query["pipelineid"], asked)

    def _add_version(
        self, name: str, pipeline_id: str, asked: "_Request"
    ) -> api.V2beta1PipelineVersion:
        _refuse_taken([one for one in self.versions if one.pipeline_id == pipeline_id], name)
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id, pipeline_version_id=str(uuid.uuid4()), display_name=name
        )
        self.versions.append(version)
        self.packages[version.pipeline_version_id] = asked.file()
        return version

    def _list_versions(self, asked: "_Request") -> Any:
        of_it = [each for each in self.versions if each.pipeline_id == asked.id]
        return self._list("PipelineVersions", of_it, asked)

    def _create_experiment(self, asked: "_Request") -> api.V2beta1Experiment:
        experiment = asked.model(api.V2beta1Experiment)
        _refuse_taken(self.experiments, experiment.display_name)
        experiment.experiment_id = str(uuid.uuid4())
        self.experiments.append(experiment)
        return experiment

    def _list_runs(self, asked: "_Request") -> Any:
        assert not asked.query.get("experiment_id"), "those of all experiments are asked for"
        return self._list("RecurringRuns", self.recurring_runs, asked)

    def _create_run(self, asked: "_Request") -> api.V2beta1RecurringRun:
        run = asked.model(api.V2beta1RecurringRun)
        reference = run.pipeline_version_reference
        known = {(each.pipeline_id, each.pipeline_version_id) for each in self.versions}
        if (reference.pipeline_id, reference.pipeline_version_id) not in known:
            raise _RefusalError(404, "pipeline version not found")
        if len(run.trigger.cron_schedule.cron.split()) != 6:
            raise _RefusalError(400, "a cron has six fields")
        run.recurring_run_id = str(uuid.uuid4())
        run.status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[run.mode]
        self.recurring_runs.append(run)
        return run

    def _disable_run(self, asked: "_Request") -> dict[str, str]:
        self._run(asked.id).status = "DISABLED"
        return {}

    def _delete_run(self, asked: "_Request") -> dict[str, str]:
        run = self._run(asked.id)
        if run.status != "DISABLED":
            raise _RefusalError(400, "deleted while it was on")
        self.recurring_runs.remove(run)
        return {}

    def _run(self, run_id: str) -> api.V2beta1RecurringRun:
        for run in self.recurring_runs:
            if run.recurring_run_id == run_id:
                return run
        raise _RefusalError(404, f"no recurring run {run_id}")


@dataclass(frozen=True)
class _Request:
    query: dict[str, str]
    body: bytes
    content_type: str
    id: str = ""
    """Of what the path names."""

    def model(self, kind: type[Any]) -> Any:
        unknown = set(json.loads(self.body)) - set(kind.attribute_map.values())
        if unknown:
            raise _RefusalError(400, f"unknown fields {unknown}")
        return api.ApiClient().deserialize(SimpleNamespace(data=self.body), kind.__name__)

    def file(self) -> bytes:
        message = BytesParser().parsebytes(
            f"Content-Type: {self.content_type}\r\n\r\n".encode() + self.body
        )
        (package,) = (part for part in message.walk() if part.get_filename())
        payload = package.get_payload(decode=True)
        assert isinstance(payload, bytes)
        return payload


class _RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _refuse_taken(there: list[Any], name: str) -> None:
    if any(each.display_name == name for each in there):
        raise _RefusalError(409, f"{name} exists already")


@contextmanager
def kubeflow() -> Iterator[FakeKubeflow]:
    """Serve one on a port of its own."""
    fake = FakeKubeflow()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                kind = self.headers.get("Content-Type", "")
                document, status = fake.answer(self.command, self.path, body, kind), 200
            except _RefusalError as refusal:
                document, status = {"code": refusal.status, "message": str(refusal)}, refusal.status
            data = json.dumps(api.ApiClient().sanitize_for_serialization(document)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
