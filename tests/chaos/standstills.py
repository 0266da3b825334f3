"""`python -m tests.chaos.standstills FILE`: when the host took a processor away from the machine.

A thread for each processor sleeps 2 ms again and again, at the highest priority that there is: it
wakes up late only when its processor does not run at all. The kernel says whether the host had it
meanwhile ("steal"). Both together are no server's doing, and no load's.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from local_stack.processes import Process

__all__ = ["Standstill", "Standstills"]

_SLEEP_SECONDS = 0.002
_LEAST_SECONDS = 0.02
"""Two fifths of a request's deadline."""
_COUNTED_AFTER_SECONDS = 0.03
"""The kernel counts stolen time at its next ticks."""
_COUNTED_SHARE = 0.5
_TURNS_BY_LOOK = 25
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Standstill:
    """A processor that did not run, from when to when on the monotonic clock."""

    begin: float
    end: float


class Standstills:
    """The file of a watching process, as it grows."""

    def __init__(self, path: Path, watcher: int) -> None:
        self._path = path
        self.watcher = watcher
        """The process id."""

    @classmethod
    @contextmanager
    def watched(cls, path: Path) -> Iterator["Standstills"]:
        """Watch while the block runs."""
        path.touch()
        command = [sys.executable, "-m", "tests.chaos.standstills", str(path)]
        process = Process("standstills", command, path.with_suffix(".log"), {})
        try:
            yield cls(path, process.pid)
        finally:
            process.stop(_END_SECONDS)

    def seen(self) -> Sequence[Standstill]:
        """Read all so far, in no order."""
        lines = self._path.read_text().splitlines()
        return [Standstill(*map(float, line.split())) for line in lines]


def _watch(processor: int, path: Path) -> None:
    os.sched_setaffinity(0, {processor})  # of this thread
    highest = os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO))
    with suppress(PermissionError):  # without it sees fewer, and no more: the kernel decides
        os.sched_setscheduler(0, os.SCHED_FIFO, highest)
    with path.open("a", buffering=1) as file:
        for turn in itertools.count():
            if turn % _TURNS_BY_LOOK == 0:
                stolen = _stolen_seconds(processor)
            begin = time.monotonic()
            time.sleep(_SLEEP_SECONDS)
            end = time.monotonic()
            if end - begin < _LEAST_SECONDS:
                continue
            time.sleep(_COUNTED_AFTER_SECONDS)
            now = _stolen_seconds(processor)
            if now - stolen >= _COUNTED_SHARE * (end - begin):
                file.write(f"{begin} {end}\n")
            stolen = now


def _stolen_seconds(processor: int) -> float:
    seconds: float = psutil.cpu_times(percpu=True)[processor].steal
    return seconds


def main() -> None:
    path = Path(sys.argv[1])
    for processor in sorted(os.sched_getaffinity(0)):
        threading.Thread(target=_watch, args=(processor, path), daemon=True).start()
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main()
