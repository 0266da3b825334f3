"""Docker and Compose as processes: what is built, started, killed and looked at."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["BASE", "Stack", "build", "compressed_bytes", "inspect"]

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = "python:3.11-slim-bookworm"
_FILES: Final = ("docker-compose.yml", "deploy/compose/stand-in.yml", "deploy/compose/tls.yml")
_HEALTHY_SECONDS: Final = 60.0


def _docker(*arguments: str) -> str:
    command = [os.environ.get("DOCKER", "docker"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build() -> None:
    """Build all images."""
    command = ["make", "images", "BUILD_OPTIONS=--network=host --quiet"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def compressed_bytes(image: str) -> int:
    """Measure what `docker save | gzip` gives."""
    docker = os.environ.get("DOCKER", "docker")
    with subprocess.Popen([docker, "save", image], stdout=subprocess.PIPE) as saved:
        done = subprocess.run(
            ["gzip", "--stdout"], stdin=saved.stdout, capture_output=True, check=True
        )
    return len(done.stdout)


def inspect(name: str) -> dict[str, Any]:
    """Look at a container."""
    (found,) = json.loads(_docker("inspect", name))
    return dict(found)


@dataclass
class Stack:
    """The compose project, with the stand-in for TensorFlow Serving and by TLS."""

    store: Path
    certificates: Path
    project: str = "recsys-images-test"
    _environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._environment = os.environ | {
            "STORE": str(self.store),
            "CERTS": str(self.certificates),
        }

    def compose(self, *arguments: str) -> str:
        """Run Compose; what it says goes to the error of a failure."""
        files = [part for file in _FILES for part in ("--file", str(ROOT / file))]
        command = [*_compose(), "--project-name", self.project, *files, *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = "" if "logs" in arguments else self.compose("logs", "--no-color", "--tail", "15")
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}\n{said}")
        return done.stdout

    def up(self, *, recommenders: int = 2) -> float:
        """Start what is missing, stop what is too much; answer the seconds until all is healthy."""
        began = time.monotonic()
        self.compose(
            "up", "--detach", "--no-build", "--pull", "never", "--wait",
            "--scale", f"recommender={recommenders}",
        )  # fmt: skip
        return time.monotonic() - began

    def down(self) -> None:
        """Take everything away."""
        self.compose("down", "--volumes", "--timeout", "30")

    def containers(self) -> list[str]:
        """Name those that run."""
        lines = self.compose("ps", "--format", "json").splitlines()
        return sorted(json.loads(line)["Name"] for line in lines)

    def ports(self) -> list[int]:
        """Name the ports that recommenders are published on."""
        lines = self.compose("ps", "--format", "json", "recommender").splitlines()
        published = [each for line in lines for each in json.loads(line)["Publishers"]]
        return sorted({each["PublishedPort"] for each in published if each["PublishedPort"]})

    def kill_and_start(self, name: str) -> float:
        """Kill a container, start it again; answer the seconds until its health check passes.

        The check is run here again and again: Docker itself looks every ten seconds.
        """
        _docker("kill", "--signal", "KILL", name)
        began = time.monotonic()
        _docker("start", name)
        check = _health_check(name)
        while not _passes(name, check):
            if time.monotonic() - began > _HEALTHY_SECONDS:
                raise SystemExit(f"{name} is not healthy {_HEALTHY_SECONDS:g} s after its restart")
        return time.monotonic() - began


def _health_check(name: str) -> list[str]:
    kind, *check = inspect(name)["Config"]["Healthcheck"]["Test"]
    return ["sh", "-c", *check] if kind == "CMD-SHELL" else check


def _passes(name: str, check: Sequence[str]) -> bool:
    command = [os.environ.get("DOCKER", "docker"), "exec", name, *check]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _compose() -> Sequence[str]:
    """Name Compose, a program of its own or a part of the client."""
    program = os.environ.get("COMPOSE")
    return [program] if program else [os.environ.get("DOCKER", "docker"), "compose"]
