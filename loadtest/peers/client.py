"""A system's client in a process of its own, as the bench sees it; see `clients.protocol`."""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestError
from loadtest.peers.environments import Environment
from loadtest.peers.inputs import K
from local_stack.processes import tied_to_this_process

__all__ = ["Client", "Loaded", "Site", "running_client"]

_END_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Site:
    """Where one system's client, a module, and its data are. `port` is 0 without a server."""

    client: str
    environment: Environment
    directory: Path
    port: int
    settings: Mapping[str, Any]

    def at(self, port: int) -> "Site":
        """Answer the same at another port."""
        return replace(self, port=port)


@dataclass(frozen=True)
class Loaded:
    """What one client process measured."""

    seconds: NDArray[np.float64]
    """How long each question took that was asked after the warm-up."""
    cpu_seconds: float
    """Of the client process itself."""


class Client:
    """A running client process. All methods raise LoadTestError when it fails or ends."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def reaches_server(self) -> bool:
        """Whether the server answers by now."""
        self.tell({"do": "reach"})
        return bool(self.answer()["reached"])

    def build(self, vectors: Path, ids: Path, progress: Callable[[float], None]) -> float:
        """Fill the system; answer the seconds that it took."""
        self.tell({"do": "build", "vectors": str(vectors), "ids": str(ids)})
        while "progress" in (answer := self.answer()):
            progress(answer["progress"])
        return float(answer["seconds"])

    def connect(self, clients: int, effort: int, queries: Path) -> None:
        """Have so many connections with that effort; return once each has got an answer."""
        self.begin_connecting(clients, effort, queries)
        self.answer()

    def begin_connecting(self, clients: int, effort: int, queries: Path) -> None:
        """The same without waiting for it: that is its `answer`."""
        self.tell({"do": "connect", "clients": clients, "effort": effort,
                   "queries": str(queries)})  # fmt: skip

    def ids_for(self, queries: Path, effort: int, scratch: Path) -> tuple[NDArray[np.int64], float]:
        """Answer what each query finds, int64[queries, k], and the median ms of a question."""
        self.tell({"do": "answer", "queries": str(queries), "effort": effort,
                   "into": str(scratch)})  # fmt: skip
        milliseconds = float(self.answer()["median_ms"])
        found: NDArray[np.int64] = np.load(scratch)
        return found, milliseconds

    def loaded(self) -> Loaded:
        """Answer what came of a `load` that it was told."""
        answer = self.answer()
        microseconds = np.frombuffer(base64.b64decode(answer["microseconds"]), "<u4")
        return Loaded(microseconds / 1e6, float(answer["cpu_seconds"]))

    def tell(self, command: Mapping[str, Any]) -> None:
        """Send a command."""
        pipe = cast("IO[str]", self._process.stdin)
        try:
            pipe.write(json.dumps(command) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to a command."""
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadTestError(f"{self._name}: {answer['error']}")
        return answer

    def _ended(self) -> LoadTestError:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "nothing was logged"
        return LoadTestError(f"{self._name}: its client ended: {last}")


@contextmanager
def running_client(name: str, site: Site, *, threads: int = 1) -> Iterator[Client]:
    """Run a client for as long as the block runs. `threads`: what a build may compute with."""
    command = [site.environment.python, "-m", site.client]
    environment = {**os.environ, **site.environment.variables, "BENCH_THREADS": str(threads)}
    place = {"port": site.port, "directory": str(site.directory.resolve()), "k": K,
             "settings": site.settings}  # fmt: skip
    log = site.directory / "client.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            tied_to_this_process(command),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, env=environment,
        )  # fmt: skip
    client = Client(name, process, log)
    try:
        client.tell(place)
        yield client
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """Let it end by the end of its input, in good order; kill it where it does not."""
    with suppress(BrokenPipeError):  # it ended before
        cast("IO[str]", process.stdin).close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    cast("IO[str]", process.stdout).close()
