"""One process of the stack: started with its log in a file, ended in good order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local_stack.errors import StackError

__all__ = ["Process", "tied_to_this_process"]

_POLL_SECONDS = 0.01


def tied_to_this_process(command: Sequence[str]) -> list[str]:
    """Answer the command that runs `command` and ends with this process, however that ends."""
    return [sys.executable, "-m", "local_stack.child", str(os.getpid()), *command]


class Process:
    """A running command. It dies with this process, however this process ends.

    Start it from the main thread: the kernel watches the thread that started it.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                tied_to_this_process(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # Ctrl-C reaches the foreground group; the stack decides the order of the end.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def returncode(self) -> int | None:
        """Answer the exit code, None while it runs."""
        return self._popen.poll()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready`; raises StackError when the process ends or the time runs out."""
        end = time.monotonic() + seconds
        while not ready():
            if self.returncode() is not None:
                raise StackError(f"{self.name} ended with {self.returncode()}: {self.last_words()}")
            if time.monotonic() > end:
                raise StackError(f"{self.name} was not ready in {seconds:.0f} s; see {self.log}")
            time.sleep(_POLL_SECONDS)

    def last_words(self) -> str:
        """Answer the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing was logged"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Answer the exit code; raises StackError when it runs on after that time."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StackError(f"{self.name} did not end within {seconds:.0f} s") from None

    def stop(self, seconds: float = 15.0) -> int:
        """Ask the process to end, insist after `seconds`; answer its exit code."""
        if self.returncode() is None:
            self.send(signal.SIGTERM)
            try:
                return self.wait(seconds)
            except StackError:
                self.send(signal.SIGKILL)
        return self._popen.wait()
