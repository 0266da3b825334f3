"""One run of the workflow as a process that is killed at a chosen moment."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pipeline.records import RECORD_FILE, has_ended
from releases.store import ReleaseStore

__all__ = ["LONG_ENOUGH_SECONDS", "KillPoint", "Killed", "Workflow"]

LONG_ENOUGH_SECONDS: Final = 1.0
"""A step that takes longer has to be met under way by a kill in its middle."""

_POLL_SECONDS: Final = 0.002
_PATIENCE_SECONDS: Final = 300.0
_TRIES: Final = 4


@dataclass(frozen=True)
class KillPoint:
    """Right after a step has ended, or in the middle of it."""

    step: str
    moment: Literal["middle", "end"]

    def __str__(self) -> str:
        return f"{self.step}: {self.moment}"


@dataclass(frozen=True)
class Killed:
    """What a kill met: whether the step was under way, and which had ended before."""

    point: KillPoint
    was_under_way: bool
    ended: dict[str, int]
    """Steps that had ended, with the time (ns) of their record."""


class Workflow:
    """A workdir and a store, and the command that fills them."""

    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self.workdir = directory / "work"
        self.store = ReleaseStore(str(directory / "store"))
        self._log = directory / "log"
        directory.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "pipeline", "run", "--workdir", str(self.workdir)]
        self._command += ["--store", str(directory / "store"), *arguments]

    def finish(self) -> int:
        """Run to the end; answer the release. Raises AssertionError with what the run said."""
        with self._log.open("wb") as log:
            code = subprocess.run(self._command, stdout=log, stderr=log, check=False).returncode
        assert code == 0, self._log.read_text()
        (release,) = self.store.usable()
        return release

    def seconds(self) -> dict[str, float]:
        """How long each step took."""
        taken: dict[str, float] = json.loads((self.workdir / "run.json").read_text())["seconds"]
        return taken

    def kill_at(self, point: KillPoint, usual_seconds: float) -> Killed:
        """Run until the moment, and kill -9; the step takes `usual_seconds` when it is let.

        Where the machine has become so much faster that a long step ended before its middle, the
        step is made undone and done again, and killed in half the time.
        """
        folder, middle = self.workdir / point.step, usual_seconds / 2
        killed = self._killed(folder, point, middle)
        if point.moment == "middle" and usual_seconds >= LONG_ENOUGH_SECONDS:
            for _ in range(_TRIES - 1):
                if killed.was_under_way:
                    break
                shutil.rmtree(folder)
                middle /= 2
                killed = self._killed(folder, point, middle)
        return killed

    def _killed(self, folder: Path, point: KillPoint, middle: float) -> Killed:
        with self._log.open("wb") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
            try:
                self._await(folder, point, middle, process)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return Killed(point, not has_ended(folder), self.ended())

    def ended(self) -> dict[str, int]:
        """Name the steps that have a record, and when it was written."""
        records = self.workdir.glob(f"*/{RECORD_FILE}")
        return {each.parent.name: each.stat().st_mtime_ns for each in records}

    def _await(
        self, folder: Path, point: KillPoint, middle: float, process: subprocess.Popen[bytes]
    ) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        began = None
        while not has_ended(folder):
            now = time.monotonic()
            assert process.poll() is None, self._log.read_text()
            assert now < deadline, f"{point} was not reached: {self._log.read_text()}"
            if began is None and folder.exists():
                began = now
            if point.moment == "middle" and began and now - began >= middle:
                return
            time.sleep(_POLL_SECONDS)
