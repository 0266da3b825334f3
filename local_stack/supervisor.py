"""`make up` and `make down`: the stack as a process of its own, found again by its pid file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from local_stack.errors import StackError
from local_stack.stack import LocalStack, Ports

__all__ = ["refuse_second", "start_supervisor", "stop_supervisor", "supervise"]

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05


def supervise(directory: Path, store: Path, ports: Ports) -> int:
    """Run the stack until SIGTERM; answer the exit code.

    The pid file is there from the moment at which every part serves. Raises StackError when a
    part cannot start or ends by itself.
    """
    signal.signal(signal.SIGTERM, _exit_in_order)
    with LocalStack(directory / "stack", str(store), ports) as stack:
        stack.wait_until_serving()
        _write_pid(directory)
        try:
            while True:
                _refuse_dead_parts(stack)
                time.sleep(_POLL_SECONDS)
        finally:
            _pid_file(directory).unlink(missing_ok=True)


def refuse_second(directory: Path) -> None:
    """Raise StackError when the stack is running."""
    if running_pid(directory) is not None:
        raise StackError("the stack is up already; `make down` stops it")


def start_supervisor(directory: Path, *, free_ports: bool = False) -> None:
    """Start `supervise` in the background and return once the stack serves.

    Raises StackError when a stack is running already or does not come up.
    """
    refuse_second(directory)
    command = [sys.executable, "-m", "local_stack", "supervise", "--directory", str(directory)]
    log = directory / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--free-ports"] if free_ports else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        # Not that the file is there: a stack that was killed leaves its own behind.
        _await(lambda: running_pid(directory) == process.pid, process, log)
    except BaseException:
        process.terminate()
        process.wait(_STOP_SECONDS)
        raise


def stop_supervisor(directory: Path) -> bool:
    """End the stack and wait for it; False where none is running."""
    pid = running_pid(directory)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _STOP_SECONDS
    while _is_supervisor(pid):
        if time.monotonic() > end:
            raise StackError(f"the stack (process {pid}) did not end in {_STOP_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    return True


def running_pid(directory: Path) -> int | None:
    """Answer the process id of the running supervisor, None where there is none."""
    try:
        pid = int(_pid_file(directory).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if _is_supervisor(pid) else None


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise StackError(lines[-1] if lines else f"the stack ended; see {log}")
        if time.monotonic() > end:
            raise StackError(f"the stack was not up in {_START_SECONDS:.0f} s; see {log}")
        time.sleep(_POLL_SECONDS)


def _is_supervisor(pid: int) -> bool:
    """Whether the process is ours: a pid file may outlive its process, and pids are used again."""
    try:
        command = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return command[1:4] == ["-m", "local_stack", "supervise"]


def _refuse_dead_parts(stack: LocalStack) -> None:
    for process in stack.processes.values():
        if process.returncode() is not None:
            raise StackError(
                f"{process.name} ended with {process.returncode()}: {process.last_words()}"
            )


def _write_pid(directory: Path) -> None:
    partial = _pid_file(directory).with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(_pid_file(directory))


def _pid_file(directory: Path) -> Path:
    return directory / "supervisor.pid"


def _exit_in_order(number: int, _frame: object) -> None:
    raise SystemExit(0 if number == signal.SIGTERM else 1)
