"""S3 and Google Cloud Storage, over HTTP, as moto and gcp-storage-emulator speak them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3  # type: ignore[import-untyped]
from gcp_storage_emulator.server import create_server  # type: ignore[import-untyped]
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

__all__ = ["AWS_ENVIRONMENT", "GCS_ENVIRONMENT", "Request", "ScriptedS3", "gcs_server", "s3_server"]

AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}

# Else gcsfs first asks by gRPC, for a minute, what kind of bucket the emulator has.
GCS_ENVIRONMENT = {"FSSPEC_GCS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

_REFUSAL = b"<Error><Code>%s</Code><Message>told to refuse</Message></Error>"


@dataclass(frozen=True)
class Request:
    """What came over the wire; `path` is /bucket/key."""

    method: str
    path: str
    query: str


@dataclass
class ScriptedS3:
    """Moto's S3, which keeps a list of the requests and refuses those that it is told to."""

    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    refuse: Callable[[Request], str | None] = lambda _request: None
    """Answers a status line such as `403 Forbidden`, or None to let the request through."""
    after: Callable[[Request], object] = lambda _request: None

    def make_bucket(self, name: str) -> str:
        """Make a bucket and answer its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self, service: str = "s3") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )

    def stored(self) -> list[str]:
        """Paths below /bucket/store of the files that were sent, claims and manifests too."""
        return [
            request.path.split("/store/")[1]
            for request in self.requests
            if request.method == "PUT" and "/store/" in request.path
        ]


class _Scripted:
    def __init__(self, s3: ScriptedS3) -> None:
        self._s3 = s3
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        status = self._s3.refuse(request)
        if status is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("Content-Type", "application/xml")])
            return [_REFUSAL % status.partition(" ")[2].replace(" ", "").encode()]
        answer = self._moto(environ, start_response)
        self._s3.requests.append(request)
        self._s3.after(request)
        return answer


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: Any) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[ScriptedS3]:
    """Run moto with all its services on a port of its own."""
    s3 = ScriptedS3()
    server = make_server("127.0.0.1", 0, _Scripted(s3), threaded=True, request_handler=_Quiet)
    s3.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def gcs_server(bucket: str) -> Iterator[str]:
    """Run the emulator with one bucket; the answer is its address, host:port."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        yield f"127.0.0.1:{server._api._httpd.server_port}"
    finally:
        server.stop()
