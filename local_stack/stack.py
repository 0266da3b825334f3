"""Starts Redis, model server, faiss server and recommender, and knows where each listens."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local_stack.processes import Process
from local_stack.redis import start_redis

__all__ = [
    "FIXED_PORTS",
    "FREE_PORTS",
    "SERVER_NAMES",
    "Address",
    "LocalStack",
    "Ports",
    "read_address",
    "wait_for_serving",
]

_LISTENING_SECONDS = 60.0  # importing TensorFlow on a busy machine
_SERVING_SECONDS = 120.0
# By name: the module to run and the prefix of its settings.
_SERVERS = {
    "model-server": ("tf_serving", "TF_SERVING_"),
    "faiss-server": ("faiss_server", "FAISS_SERVER_"),
    "recommender": ("recommender", "RECOMMENDER_"),
}
SERVER_NAMES = tuple(_SERVERS)
_MODELS_CONFIG = """\
model_config_list {{
  config {{
    name: "user_tower"
    base_path: "{base_path}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
}}
"""


@dataclass(frozen=True)
class Ports:
    """Where the servers listen: gRPC and metrics; 0 takes free ones."""

    recommender: tuple[int, int]
    faiss_server: tuple[int, int]
    model_server: tuple[int, int]


FREE_PORTS = Ports((0, 0), (0, 0), (0, 0))
FIXED_PORTS = Ports((50051, 9101), (50052, 9102), (8500, 9103))


@dataclass(frozen=True)
class Address:
    """Where a server turned out to listen, on 127.0.0.1."""

    port: int
    metrics_port: int
    pid: int

    @property
    def target(self) -> str:
        """host:port for gRPC."""
        return f"127.0.0.1:{self.port}"


class LocalStack:
    """One of each server over a release store; a context manager that ends what it started.

    `directory` holds local copies, logs and the files that tell ports; `store` is any URL that
    the release store takes. Starting does not wait for a release: see `wait_until_serving`.
    """

    def __init__(
        self,
        directory: Path,
        store: str,
        ports: Ports = FREE_PORTS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory.resolve()
        self._store = store
        self._ports = ports
        self._settings = dict(settings or {})
        self._cleanup = ExitStack()
        self.processes: dict[str, Process] = {}
        self.environments: dict[str, Mapping[str, str]] = {}
        """Settings of each process, by its name."""
        self.redis_url = ""
        self.addresses: dict[str, Address] = {}

    def __enter__(self) -> Self:
        (self._directory / "run").mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def wait_until_serving(self, seconds: float = _SERVING_SECONDS) -> None:
        """Return once every server has a usable release; raises StackError naming one that has not.

        The recommender comes last: it serves when the others do and their releases match.
        """
        for name in ("model-server", "faiss-server", "recommender"):
            wait_for_serving(self.processes[name], self.addresses[name], seconds)

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the servers that answer for a user, by name."""
        return {name: address.pid for name, address in self.addresses.items()}

    def _start(self) -> None:
        self._cleanup.callback(self._stop_all)
        redis, self.redis_url = start_redis(self._directory / "redis", self._log("redis"))
        self.processes["redis"] = redis
        models = self._directory / "model-server"
        self._run("releases-pull", "releases", _pull_arguments(self._store, models))
        self._serve(
            "model-server",
            self._ports.model_server,
            {"MODEL_CONFIG_FILE": str(_models_config(models))},
        )
        local = self._directory / "faiss-server"
        self._serve(
            "faiss-server",
            self._ports.faiss_server,
            {"STORE": self._store, "LOCAL_DIR": str(local), "REDIS_URL": self.redis_url},
        )
        # Both are starting; only now wait for them, the recommender needs their ports.
        model, faiss = self._listening("model-server"), self._listening("faiss-server")
        self._serve(
            "recommender",
            self._ports.recommender,
            {
                "REDIS_URL": self.redis_url,
                "MODEL_SERVERS": model.target,
                "FAISS_SERVERS": faiss.target,
            },
        )
        self._listening("recommender")

    def _serve(self, name: str, ports: tuple[int, int], settings: Mapping[str, str]) -> None:
        """Start one of our servers with settings given by their names without the prefix."""
        module, prefix = _SERVERS[name]
        ready_file = _ready_file(self._directory, name)
        ready_file.unlink(missing_ok=True)
        own = {
            "PORT": str(ports[0]),
            "METRICS_PORT": str(ports[1]),
            "READY_FILE": str(ready_file),
            **settings,
        }
        environment = {prefix + key: value for key, value in own.items()}
        self._run(name, module, [], {**environment, **self._settings})

    def _run(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self.environments[name] = environment or {}
        self.processes[name] = Process(name, command, self._log(name), self.environments[name])

    def _listening(self, name: str) -> Address:
        self.processes[name].wait_until(
            _ready_file(self._directory, name).exists, _LISTENING_SECONDS
        )
        self.addresses[name] = read_address(self._directory, name)
        return self.addresses[name]

    def _stop_all(self) -> None:
        # The recommender first, so that it answers its last calls with the others still there.
        for process in reversed(self.processes.values()):
            process.stop()

    def _log(self, name: str) -> Path:
        return self._directory / "logs" / f"{name}.log"


def read_address(directory: Path, name: str) -> Address:
    """Answer where a server of the stack in `directory` listens, by its name."""
    return Address(**json.loads(_ready_file(directory, name).read_text()))


def wait_for_serving(process: Process, address: Address, seconds: float) -> None:
    """Return once the server's health is SERVING.

    Raises StackError when the process ends or the time runs out.
    """
    with grpc.insecure_channel(address.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        process.wait_until(lambda: _is_serving(health), seconds)


def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _ready_file(directory: Path, name: str) -> Path:
    return directory / "run" / f"{name}.json"


def _pull_arguments(store: str, into: Path) -> list[str]:
    arguments = ["pull", "--store", store, "--into", str(into)]
    return [*arguments, "--part", "model", "--watch", "0.5"]


def _models_config(directory: Path) -> Path:
    """Write TF Serving's configuration for models on this machine."""
    base_path = directory / "models" / "user_tower"
    base_path.mkdir(parents=True, exist_ok=True)
    path = directory / "models.config"
    path.write_text(_MODELS_CONFIG.format(base_path=base_path))
    return path
