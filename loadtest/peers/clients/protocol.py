"""How the bench talks to a client: a line of JSON each way.

A client has two functions: one fills an empty system, the other answers a search, a callable over
one connection; and where there is a server a third, which tells whether it answers. `run` does the
rest: it keeps connections, asks in a closed loop from one thread each, and tells how long each
question took. Runs with NumPy and the standard library alone.
"""

import base64
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Build", "Connect", "Place", "Progress", "Reach", "Search", "run"]

_PATIENCE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.2
_SAME_QUERIES: Final = 1
"""Seed of the order of queries: the same for every system."""


@dataclass(frozen=True)
class Place:
    """Where a system is: its port on 127.0.0.1, and the directory of its data."""

    port: int
    directory: Path
    k: int
    """How many ids are asked for."""
    settings: Mapping[str, Any]
    """Of the client's own kind."""


Progress = Callable[[float], None]
"""Told the share that is done, 0 to 1."""
Search = Callable[[NDArray[np.float32]], Sequence[int] | NDArray[np.int64]]
"""One query float32[d]; the ids of the best k, best first."""
Build = Callable[[Place, NDArray[np.float32], NDArray[np.int64], Progress], None]
"""Takes vectors float32[n, d] and ids int64[n]; returns once they can be searched."""
Connect = Callable[[Place, int], Search]
"""Answers a search over a connection of its own, with so much effort."""
Reach = Callable[[Place], object]
"""Raises for as long as the server does not answer."""


def run(build: Build, connect: Connect, reach: Reach = lambda _: None) -> None:
    """Do what standard input says until it ends; the first line is the place."""
    answers = _own_standard_output()
    place = json.loads(sys.stdin.readline())
    place["directory"] = Path(place["directory"])
    client = _Client(Place(**place), (build, connect, reach), answers)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = client.commands[asked.pop("do")](**asked)
        except Exception as error:  # noqa: BLE001 - told to the bench, whatever it is
            traceback.print_exc()
            text = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
        _tell(answers, answer)


def _own_standard_output() -> IO[str]:
    """Keep the pipe for answers; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _tell(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class _Client:
    """The commands, by their names."""

    def __init__(
        self, place: Place, functions: tuple[Build, Connect, Reach], answers: IO[str]
    ) -> None:
        self._place = place
        self._build, self._connect, self._reach = functions
        self._answers = answers
        self._searches: list[Search] = []
        self.commands: Mapping[str, Callable[..., Mapping[str, Any]]] = {
            "reach": self.reach,
            "build": self.build,
            "answer": self.answer,
            "connect": self.connect,
            "load": self.load,
        }

    def reach(self) -> Mapping[str, Any]:
        """Answer whether the server can be asked."""
        try:
            self._reach(self._place)
        except Exception as error:  # noqa: BLE001 - each library has its own
            return {"reached": False, "why": str(error)}
        return {"reached": True}

    def build(self, vectors: str, ids: str) -> Mapping[str, Any]:
        """Fill the system with the arrays of two files; answer the seconds."""
        rows, numbers = np.load(vectors, mmap_mode="r"), np.load(ids)
        started = time.perf_counter()
        self._build(
            self._place, rows, numbers, lambda share: _tell(self._answers, {"progress": share})
        )
        return {"seconds": time.perf_counter() - started}

    def answer(self, queries: str, effort: int, into: str) -> Mapping[str, Any]:
        """Write the ids that each query finds into a file, -1 where there are fewer than k."""
        search, asked = self._connect(self._place, effort), np.load(queries)
        search(asked[0])
        found = np.full((len(asked), self._place.k), -1, np.int64)
        durations = np.empty(len(asked))
        for number, query in enumerate(asked):
            started = time.perf_counter()
            ids = search(query)
            durations[number] = time.perf_counter() - started
            found[number, : len(ids)] = ids
        np.save(into, found)
        return {"median_ms": float(np.median(durations)) * 1000}

    def connect(self, clients: int, effort: int, queries: str) -> Mapping[str, Any]:
        """Have so many connections, each used once."""
        query = np.load(queries, mmap_mode="r")[0]
        self._searches = [self._answering(query, effort) for _ in range(clients)]
        return {"connected": len(self._searches)}

    def _answering(self, query: NDArray[np.float32], effort: int) -> Search:
        """Connect and ask until there is an answer: a server that was halted needs a moment."""
        by = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                search = self._connect(self._place, effort)
                search(query)
                return search
            except Exception:
                if time.monotonic() > by:
                    raise
                time.sleep(_LOOK_SECONDS)

    def load(
        self, queries: str, seed: int, start: float, warmup: float, seconds: float
    ) -> Mapping[str, Any]:
        """Ask again once answered on every connection, from `start` (CLOCK_MONOTONIC) on.

        Answers the microseconds of each question asked after the warm-up: uint32, base64.
        """
        asked, loops = np.load(queries), []
        for number, search in enumerate(self._searches):
            order = np.random.default_rng([_SAME_QUERIES, seed, number]).permutation(len(asked))
            loops.append(_Loop(search, [asked[row] for row in order]))
        gc.collect()
        gc.disable()  # seconds at the most, and a collection would count as somebody's latency
        try:
            cpu = _in_step(loops, start, warmup, seconds)
        finally:
            gc.enable()
        durations = np.concatenate([np.array(loop.durations) for loop in loops])
        failures = [loop.failure for loop in loops if loop.failure is not None]
        if failures:
            raise failures[0]
        packed = (durations * 1e6).astype("<u4").tobytes()
        return {"microseconds": base64.b64encode(packed).decode(), "cpu_seconds": cpu}


class _Loop:
    """One client that asks again once answered."""

    def __init__(self, search: Search, queries: Sequence[NDArray[np.float32]]) -> None:
        self._search = search
        self._queries = queries
        self.durations: list[float] = []
        self.failure: Exception | None = None

    def ask(self, start: float, counts_from: float, end: float) -> None:
        """Ask until `end`, and keep the durations of what was asked from `counts_from` on."""
        search, queries, durations = self._search, self._queries, self.durations
        time.sleep(max(0.0, start - time.monotonic()))
        number = 0
        try:
            while (started := time.monotonic()) < end:
                search(queries[number % len(queries)])
                if started >= counts_from:
                    durations.append(time.monotonic() - started)
                number += 1
        except Exception as error:  # noqa: BLE001 - raised again by who waits for this thread
            self.failure = error


def _in_step(loops: Sequence[_Loop], start: float, warmup: float, seconds: float) -> float:
    """Answer the CPU seconds of this process between warm-up and end."""
    times = (start, start + warmup, start + warmup + seconds)
    threads = [threading.Thread(target=loop.ask, args=times, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, times[1] - time.monotonic()))
    before = time.process_time()
    time.sleep(max(0.0, times[2] - time.monotonic()))
    used = time.process_time() - before
    for thread in threads:
        thread.join()
    return used
