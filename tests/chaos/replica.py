"""One process of the cluster, and everything that may be done to it."""

import contextlib
import json
import os
import resource
import signal
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from local_stack.errors import StackError
from local_stack.processes import Process

__all__ = ["Replica"]

_LISTENING_SECONDS = 60.0
_SERVING_SECONDS = 60.0


@dataclass
class Replica:
    """One server at one address; it comes back there after whatever was done to it."""

    name: str
    command: list[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    """host:port of gRPC; empty for what has none."""
    ready_file: Path | None = None
    metrics_address: str = ""
    """host:port of its metrics, where no ready file tells it."""
    starts: int = 0
    process: Process | None = None
    crashes: list[str] = field(default_factory=list)
    """Exits that nobody asked for."""

    @property
    def running(self) -> Process:
        """The process; only while there is one."""
        assert self.process is not None, f"{self.name} does not run"
        return self.process

    def start(self) -> None:
        """Start it; what it logs goes to a new file."""
        if self.ready_file is not None:
            self.ready_file.unlink(missing_ok=True)
        self.starts += 1
        log = self.directory / f"{self.name}-{self.starts}.log"
        self.process = Process(self.name, self.command, log, self.environment)
        self._stand_back(os.SCHED_IDLE)

    def wait_serving(self) -> None:
        """Return once its health, if it has one, is SERVING.

        Raises StackError when it ends or takes too long.
        """
        if self.ready_file is not None:
            self.running.wait_until(self.ready_file.exists, _LISTENING_SECONDS)
        if self.address:
            with grpc.insecure_channel(self.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                self.running.wait_until(lambda: _is_serving(health), _SERVING_SECONDS)
        self._stand_back(os.SCHED_OTHER)

    def _stand_back(self, policy: int) -> None:
        """Let a process start with what those that serve leave of the cores; elsewhere it would
        have a machine of its own. Only root may take that back, so others do without.
        """
        if os.geteuid() != 0:
            return
        for thread in Path(f"/proc/{self.running.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))

    def kill(self) -> None:
        """End it at once, as the kernel does for want of memory."""
        self.note_crash()
        self.running.send(signal.SIGKILL)
        self.running.wait(10)
        self.process = None

    def stop(self) -> None:
        """Suspend it: connections stay, nothing is answered."""
        self.running.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.running.send(signal.SIGCONT)

    def terminate(self, seconds: float = 20.0) -> None:
        """End it in good order; raises StackError when it hangs, or ends with anything but 0."""
        self.note_crash()
        self.running.send(signal.SIGTERM)
        code = self.running.wait(seconds)
        words = self.running.last_words()
        self.process = None
        if code != 0:
            raise StackError(f"{self.name} ended with {code} on SIGTERM: {words}")

    def note_crash(self) -> bool:
        """Notice whether it ended by itself; such an exit is kept in `crashes`."""
        code = None if self.process is None else self.process.returncode()
        if code is None:
            return False
        self.crashes.append(f"{self.name} ended with {code}: {self.running.last_words()}")
        self.process = None
        return True

    def clean_up(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None and self.process.returncode() is None:
            self.resume()
            self.process.stop()

    def limit_files(self, size: int | None) -> None:
        """Let no file grow beyond `size` bytes: to its writer the disk is full. None: no limit."""
        hard = resource.RLIM_INFINITY
        soft = hard if size is None else size
        resource.prlimit(self.running.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def log_lines(self) -> list[str]:
        """Read what it logged since it was last started."""
        return self.running.log.read_text(errors="replace").splitlines()

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric, summed over the labels not given; 0 where there is none."""
        if self.process is None:
            return 0.0
        address = self.metrics_address
        if self.ready_file is not None:
            port = json.loads(self.ready_file.read_text())["metrics_port"]
            address = f"{self.address.rpartition(':')[0]}:{port}"
        url = f"http://{address}/metrics"
        text = urllib.request.urlopen(url, timeout=2).read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
