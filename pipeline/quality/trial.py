"""One seed: the workflow as shipped, in a process of its own, and what the release is worth."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.collect import CollectedEvents
from pipeline.errors import PipelineError
from pipeline.holdout import scan
from pipeline.judging import Judgement, judge
from pipeline.protocols import hold_out_of, questions
from pipeline.quality.data_sets import DataSet, QualityData
from pipeline.served import ServedRelease

__all__ = ["Trial", "try_seed"]

_HISTORIES_ASKED = 500
_BLOCKS = 40
_QUICK_BLOCKS = 1


@dataclass(frozen=True)
class Trial:
    """What a seed led to and what that took."""

    seed: int
    judgement: Judgement
    workdir: Path
    run_seconds: float
    peak_bytes: int
    """Of the largest process of the workflow: the one that trains."""
    latency_ms: dict[str, float]
    """Median of a call of the SavedModel on one thread, by batch size."""


def try_seed(
    data_set: DataSet,
    data: QualityData,
    seed: int,
    directory: Path,
    options: Sequence[str] = (),
    *,
    quick: bool = False,
) -> Trial:
    """Learn a release with the defaults (or these options) and judge it. Raises PipelineError."""
    store, workdir = directory / "store", directory / "work"
    seconds, peak = _learn(data_set, data, seed, directory, options)
    hold_out = hold_out_of(data_set.protocol, data.since, scan(_histories(workdir)))
    asked = questions(_histories(workdir), data_set.protocol, hold_out)
    served = ServedRelease.fetch(str(store), None, directory / "served")
    return Trial(
        seed=seed,
        judgement=judge(served, asked, remove_seen=data_set.removes_seen),
        workdir=workdir,
        run_seconds=seconds,
        peak_bytes=peak,
        latency_ms=_latency(served, asked.histories, _QUICK_BLOCKS if quick else _BLOCKS),
    )


def _histories(workdir: Path) -> tuple[Path, ...]:
    return CollectedEvents.load(workdir / "collect").histories


def _learn(
    data_set: DataSet, data: QualityData, seed: int, directory: Path, options: Sequence[str]
) -> tuple[float, int]:
    command = _command(data_set, data, seed, directory, options)
    started = time.monotonic()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = (directory / "log").read_text().splitlines()
        raise PipelineError(lines[-1] if lines else "the workflow said nothing")
    return time.monotonic() - started, usage.ru_maxrss * 1024


def _command(
    data_set: DataSet, data: QualityData, seed: int, directory: Path, options: Sequence[str]
) -> list[str]:
    """Put the options first: of what the report says the last word is ours."""
    command = [sys.executable, "-m", "pipeline", "run", *options]
    command += ["--publish-anyway", "--seed", str(seed)]
    command += ["--store", str(directory / "store"), "--workdir", str(directory / "work")]
    return command + _asked_by(data_set, data)


def _asked_by(data_set: DataSet, data: QualityData) -> list[str]:
    """Say to the workflow what is learnt from and what is held out."""
    asked = ["--events", str(data.events)]
    if data.items is not None:
        asked += ["--items", str(data.items)]
    asked += ["--split", "last-view" if data.since is None else "time"]
    if data.since is not None:
        asked += ["--split-since", str(data.since)]
    if not data_set.removes_seen:
        asked += ["--keep-seen"]
    return asked


def _latency(served: ServedRelease, histories: NDArray[np.int64], blocks: int) -> dict[str, float]:
    saved_model = str(served.exported.saved_model)
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        asked = Path(folder) / "histories.npy"
        np.save(asked, histories[:_HISTORIES_ASKED])
        command = [sys.executable, "-m", "pipeline.quality.latency", saved_model, str(asked)]
        command += [str(blocks)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PipelineError(f"the latency could not be measured: {done.stderr.strip()[-200:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
