"""The systems' servers: each a process with its data below its directory, halted while another is
measured.
"""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadtest.peers.client import Site, running_client
from loadtest.peers.systems import OURS, System
from local_stack.processes import Process
from local_stack.redis import free_port
from local_stack.stack import read_address, wait_for_serving

__all__ = ["Server", "ended", "running_own_server", "running_server"]

_READY_SECONDS: Final = 180.0
_END_SECONDS: Final = 60.0
_IMPATIENT_SECONDS: Final = 5.0
"""For those that are started for every turn: they have written nothing since."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: Process
    port: int

    def halt(self) -> None:
        """Let it take no CPU until it is resumed.

        The process itself is stopped and not its children: they do nothing without it, and end by
        themselves when it is killed, which a stopped process does not.
        """
        self.process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send(signal.SIGCONT)


@contextmanager
def running_server(system: System, site: Site) -> Iterator[Server]:
    """Run a system's server for as long as the block runs, on a free port of 127.0.0.1.

    Raises StackError when it does not answer in time.
    """
    port = free_port()
    directory = site.directory.resolve()
    command = [site.environment.python, "-m", str(system.server), str(directory), str(port)]
    process = Process(system.name, command, directory / "server.log", site.environment.variables)
    patience = _END_SECONDS if system.bears_halting else _IMPATIENT_SECONDS
    with ended(Server(process, port), patience) as server:
        with running_client(system.name, site.at(port)) as client:
            process.wait_until(client.reaches_server, _READY_SECONDS)
        yield server


@contextmanager
def running_own_server(
    directory: Path, store: Path, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Server]:
    """Run this project's faiss server over a store for as long as the block runs.

    `settings` are environment variables besides those that it needs.
    """
    (directory / "run").mkdir(parents=True, exist_ok=True)
    ready_file = directory / "run" / "faiss-server.json"
    ready_file.unlink(missing_ok=True)
    process = Process(
        OURS, [sys.executable, "-m", "faiss_server"], directory / "server.log",
        {**_own_settings(directory, store, ready_file), **settings},
    )  # fmt: skip
    with ended(Server(process, 0)):
        process.wait_until(ready_file.exists, _READY_SECONDS)
        address = read_address(directory, "faiss-server")
        wait_for_serving(process, address, _READY_SECONDS)
        yield Server(process, address.port)


def _own_settings(directory: Path, store: Path, ready_file: Path) -> Mapping[str, str]:
    settings = {
        "PORT": "0",
        "METRICS_PORT": "0",
        "STORE": str(store),
        "LOCAL_DIR": str(directory / "held"),
        "READY_FILE": str(ready_file),
        # The store is the cache's, and not to be written to.
        "REPORT_SERVING": "false",
        # The clients wait as long as it takes, as they do for the other systems.
        "DEFAULT_DEADLINE_SECONDS": "60",
    }
    return {f"FAISS_SERVER_{name}": value for name, value in settings.items()}


@contextmanager
def ended(server: Server, patience: float = _END_SECONDS) -> Iterator[Server]:
    """End it after the block, halted or not; kill it when it runs on after so many seconds."""
    try:
        yield server
    finally:
        if server.process.returncode() is None:
            server.resume()  # a halted process does not hear that it is to end
        server.process.stop(patience)
