import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from recsys.faiss.v1 import faiss_service_pb2 as pb
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb_grpc

from local_stack.processes import tied_to_this_process
from releases.layout import Part
from releases.store import ReleaseStore
from tests.faiss_server.making import publish_release
from tests.faiss_server.serving import NOT_SERVING, SERVING

A = 1_700_000_301


@pytest.fixture
def environment(tmp_path: Path, store: ReleaseStore) -> dict[str, str]:
    return {
        "FAISS_SERVER_STORE": store.url,
        "FAISS_SERVER_LOCAL_DIR": str(tmp_path / "local"),
        "FAISS_SERVER_PORT": "0",
        "FAISS_SERVER_METRICS_PORT": "0",
        "FAISS_SERVER_POLL_SECONDS": "0.05",
        "FAISS_SERVER_READY_FILE": str(tmp_path / "ready.json"),
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    own = {name: os.environ[name] for name in os.environ if not name.startswith("FAISS_SERVER_")}
    return subprocess.Popen(
        tied_to_this_process([sys.executable, "-m", "faiss_server", *arguments]),
        env=own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    with start(environment, *arguments) as process:
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


@dataclass
class Started:
    process: subprocess.Popen[str]
    channel: grpc.Channel

    def until_health(self, status: int) -> None:
        request = health_pb2.HealthCheckRequest()
        for answer in health_pb2_grpc.HealthStub(self.channel).Watch(request, timeout=30):
            if answer.status == status:
                return


@contextmanager
def started(environment: dict[str, str]) -> Iterator[Started]:
    ready_file = Path(environment["FAISS_SERVER_READY_FILE"])
    with start(environment) as process:
        try:
            while not ready_file.exists():
                assert process.poll() is None
                time.sleep(0.01)
            port = json.loads(ready_file.read_text())["port"]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Started(process, channel)
        finally:
            process.kill()
            process.communicate()


def test_the_process_serves_from_its_first_release_to_its_orderly_end(
    environment: dict[str, str], store: ReleaseStore, tmp_path: Path
) -> None:
    with started(environment) as server:
        server.until_health(NOT_SERVING)
        publish_release(store, tmp_path / "staging", A)
        server.until_health(SERVING)
        request = pb.SearchRequest(release=A, vectors=bytes(32), k=5)
        response = pb_grpc.FaissServiceStub(server.channel).Search(request)
        assert np.frombuffer(response.ids, "<i8").size == 5
        known = set(ProtoReflectionDescriptorDatabase(server.channel).get_services())
        assert {"recsys.faiss.v1.FaissService", "grpc.health.v1.Health"} <= known
        threads = Path(f"/proc/{server.process.pid}/environ").read_bytes()
        assert b"OMP_NUM_THREADS=" not in threads  # set inside, before faiss is imported
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=30)
        assert server.process.returncode == 0
        assert "Traceback" not in errors
        for line in errors.splitlines():
            json.loads(line)


def test_faiss_uses_one_thread_for_each_search(tmp_path: Path) -> None:
    code = (
        "import threading, sys; sys.argv = ['faiss_server']\n"
        "import service_runtime.process as process\n"
        "def look(kind, serve):\n"
        "    import faiss\n"
        "    found = []\n"
        "    thread = threading.Thread(target=lambda: found.append(faiss.omp_get_max_threads()))\n"
        "    thread.start(); thread.join(); print(found)\n"
        "    return 0\n"
        "process.run_process = look\n"
        "from faiss_server.__main__ import main\n"
        "sys.exit(main([]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[1]\n"


def test_a_termination_while_a_release_is_fetched_is_prompt(
    environment: dict[str, str], store: ReleaseStore, tmp_path: Path
) -> None:
    made = publish_release(store, tmp_path / "staging", A)
    # The store hangs: opening a pipe waits for someone who writes.
    path = Path(store.url) / made.manifest.part_files(Part.INDEX)[0].path
    path.unlink()
    os.mkfifo(path)
    with started(environment) as server:
        server.until_health(NOT_SERVING)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.communicate(timeout=30)
        assert server.process.returncode == 0
        assert time.monotonic() - began < 10


def taken(name: str) -> Callable[[dict[str, str], Path], Iterator[dict[str, str]]]:
    def environment_with(_: dict[str, str], __: Path) -> Iterator[dict[str, str]]:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            yield {name: str(busy.getsockname()[1])}

    return environment_with


def a_file(name: str) -> Callable[[dict[str, str], Path], Iterator[dict[str, str]]]:
    def environment_with(_: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
        (folder / "file").write_text("")
        yield {name: str(folder / "file")}

    return environment_with


def value(name: str, text: str) -> Callable[[dict[str, str], Path], Iterator[dict[str, str]]]:
    def environment_with(_: dict[str, str], __: Path) -> Iterator[dict[str, str]]:
        yield {name: text}

    return environment_with


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (taken("FAISS_SERVER_PORT"), "the port is in use"),
        (taken("FAISS_SERVER_METRICS_PORT"), "choose another METRICS_PORT"),
        (a_file("FAISS_SERVER_STORE"), "FAISS_SERVER_STORE: "),
        (value("FAISS_SERVER_STORE", "nonsense://x/y"), "FAISS_SERVER_STORE: nonsense://x/y: "),
        (value("FAISS_SERVER_STORE", ""), "FAISS_SERVER_STORE: "),
        (a_file("FAISS_SERVER_LOCAL_DIR"), "FAISS_SERVER_LOCAL_DIR: "),
        (value("FAISS_SERVER_POLL_SECONDS", "often"), "FAISS_SERVER_POLL_SECONDS: "),
        (value("FAISS_SERVER_SEARCH_THREADS", "0"), "FAISS_SERVER_SEARCH_THREADS: "),
        (value("FAISS_SERVER_REDIS_URL", "http://x"), "FAISS_SERVER_REDIS_URL: not redis://"),
        (value("FAISS_SERVER_REDIS_URL", "redis://u:s3/cret@h"), "FAISS_SERVER_REDIS_URL: not "),
        (value("FAISS_SERVER_STORES", "x"), "did you mean FAISS_SERVER_STORE?"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    environment: dict[str, str],
    tmp_path: Path,
    change: Callable[[dict[str, str], Path], Iterator[dict[str, str]]],
    message: str,
) -> None:
    for changed in change(environment, tmp_path):
        code, errors = outcome(environment | changed | {"FAISS_SERVER_LOG_LEVEL": "ERROR"})
        assert code == 1
        assert message in errors
        assert "cret" not in errors
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["FAISS_SERVER_STORE", "FAISS_SERVER_LOCAL_DIR"])
def test_a_missing_setting_is_named(environment: dict[str, str], name: str) -> None:
    del environment[name]
    assert outcome(environment) == (1, f"{name}: Field required\n")


def test_an_unknown_command_is_refused(environment: dict[str, str]) -> None:
    code, errors = outcome(environment, "serve")
    assert code == 2
    assert len(errors.splitlines()) == 1
