"""Processes that measure something beside the stacks, each time they are told to.

A companion says `ready`, then answers each line, a number of seconds, by one line of JSON: names
and the durations measured, as `Latencies.encode` writes them. It ends with its standard input.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, cast

from loadtest.errors import LoadTestError
from loadtest.latencies import Latencies
from local_stack.processes import tied_to_this_process

__all__ = ["Companion", "answer_lines", "timed"]

_END_SECONDS = 10.0


class Companion:
    """A running companion, as the bench sees it."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name = name
        self._process = process
        self._expect("ready")

    @classmethod
    @contextmanager
    def running(
        cls, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> "Iterator[Companion]":
        """Run `python -m module` for as long as the block runs."""
        command = tied_to_this_process([sys.executable, "-m", module, *arguments])
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            yield cls(module, process)
        finally:
            cast("IO[str]", process.stdin).close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            cast("IO[str]", process.stdout).close()

    def measure(self, seconds: float) -> dict[str, Latencies]:
        """Have it measure for so long; raises LoadTestError when it ended."""
        pipe = cast("IO[str]", self._process.stdin)
        try:
            pipe.write(f"{seconds}\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = json.loads(self._line())
        return {name: Latencies.merged([encoded]) for name, encoded in answer.items()}

    def _expect(self, word: str) -> None:
        line = self._line()
        if line.strip() != word:
            raise LoadTestError(f"{self._name} said {line!r} instead of {word}")

    def _line(self) -> str:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> LoadTestError:
        return LoadTestError(f"{self._name} ended; its reason is above")


def answer_lines(measure: Callable[[float], Mapping[str, str]]) -> None:
    """Be a companion until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(float(line))), flush=True)


def timed(work: Callable[[], object], seconds: float) -> Latencies:
    """Do it again and again for so long; answer how long each time took."""
    latencies = Latencies()
    end = time.perf_counter() + seconds
    started = time.perf_counter()
    while started < end:
        work()
        finished = time.perf_counter()
        latencies.record(finished - started)
        started = finished
    return latencies
