"""`python -m pipeline.bench`: time and peak memory of each step, on logs of two sizes.

SCALE=10M asks for ten million events (default 1M); the other log has a tenth of them. Each step
runs in a process of its own, whose peak memory the kernel tells. QUICK=1: some thousand events, as
far as preprocessing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from pipeline.collect import CollectedEvents
from pipeline.options import GateOptions, RunOptions, TrainOptions
from pipeline.steps import REQUIRES, STEPS
from reporting import Figure, Report, Section, Table, print_report, write_report

_DIRECTORY: Final = Path("build") / "bench-pipeline"
_SCALES: Final = {"1M": 1_000_000, "10M": 10_000_000}
_MUST_SECONDS: Final = {"1M": 180.0, "10M": 1_500.0}
_AIM_SECONDS: Final = {"1M": 120.0, "10M": 900.0}
_QUICK_EVENTS: Final = 20_000
_JUDGED: Final = ("collect", "preprocess")
_TRAIN_SECONDS: Final = 30.0
_VIEWS_OF_A_USER: Final = 50
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class StepCost:
    """What a step took."""

    step: str
    seconds: float
    peak_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both logs; answer the exit code."""
    parser = argparse.ArgumentParser("python -m pipeline.bench", description=__doc__)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=_DIRECTORY, help="where the report is written"
    )
    directory = parser.parse_args(arguments).directory
    quick = bool(os.environ.get("QUICK"))
    scale = os.environ.get("SCALE", "1M")
    if scale not in _SCALES:
        print(f"SCALE is {scale}; it must be one of {', '.join(_SCALES)}", file=sys.stderr)
        return 2
    events = _QUICK_EVENTS if quick else _SCALES[scale]
    steps = ("window", *_JUDGED) if quick else STEPS
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as place:
        small = _measure(Path(place) / "small", events // 10, steps)
        large = _measure(Path(place) / "large", events, steps)
    report = _report(events, small, large, None if quick else scale)
    print_report(report)
    write_report(report, directory)
    return 0 if report.holds else 1


def write_log(path: Path, events: int, seed: int = 1) -> None:
    """Write so many views: some 50 of each user, of articles as unevenly viewed as real ones."""
    random = np.random.default_rng(seed)
    users, articles = max(20, events // _VIEWS_OF_A_USER), max(100, events // 20)
    times = np.sort(random.integers(1_600_000_000, 1_700_000_000, events))
    table = pa.table(
        {
            "user_id": pa.array(random.integers(users, size=events)).cast(pa.string()),
            "item_id": random.zipf(1.2, events) % articles,
            "timestamp": times,
            "region_id": random.integers(-1, 20, events),
        }
    )
    pq.write_table(table, path)


def _measure(directory: Path, events: int, steps: tuple[str, ...]) -> list[StepCost]:
    directory.mkdir(parents=True)
    # Elsewhere: the kernel counts this process's peak as that of each process it starts.
    with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
        elsewhere.submit(write_log, directory / "events.parquet", events).result()
    options = RunOptions(
        events=directory / "events.parquet",
        items=None,
        store=str(directory / "store"),
        train=TrainOptions(max_train_seconds=_TRAIN_SECONDS),
        gate=GateOptions(publish_anyway=True),  # there is nothing to learn in a random log
    )
    document = directory / "options.json"
    document.write_bytes(TypeAdapter(RunOptions).dump_json(options))
    costs = []
    for step in steps:
        print(f"{events:,} events: {step} ...", file=sys.stderr)
        costs.append(_cost(step, directory, document))
    counted = CollectedEvents.load(directory / "collect").event_count
    print(f"{events:,} events: {counted:,} distinct ones", file=sys.stderr)
    return costs


def _cost(step: str, directory: Path, options: Path) -> StepCost:
    command = [sys.executable, "-m", "pipeline", "step", step, "--options", str(options)]
    command += [f"--input={name}={directory / name}" for name in REQUIRES[step]]
    command += ["--output", str(directory / step)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{step} ended with {process.returncode}; its message is above")
    return StepCost(step, time.monotonic() - started, usage.ru_maxrss * 1024)


def _report(events: int, small: list[StepCost], large: list[StepCost], scale: str | None) -> Report:
    seconds = sum(cost.seconds for cost in large if cost.step in _JUDGED)
    peak = max(cost.peak_bytes for cost in large if cost.step in _JUDGED)
    figures = [
        Figure("events", events),
        Figure(
            "collect and preprocess", seconds, "s",
            must=None if scale is None else f"<= {_MUST_SECONDS[scale]:g}",
            aim=None if scale is None else f"<= {_AIM_SECONDS[scale]:g}",
        ),
        Figure(
            "peak memory of collect and preprocess", peak / _GIB, "GiB",
            must=None if scale is None else "<= 8", aim=None if scale is None else "<= 4",
        ),
    ]  # fmt: skip
    rows = []
    for few, many in zip(small, large, strict=True):
        figures.append(Figure(f"{many.step}: seconds", many.seconds, "s"))
        figures.append(Figure(f"{many.step}: peak memory", many.peak_bytes / _MIB, "MiB"))
        rows.append(
            (many.step, few.seconds, many.seconds, many.seconds / few.seconds,
             few.peak_bytes / _MIB, many.peak_bytes / _MIB)
        )  # fmt: skip
    headings = (
        "step", f"seconds, {events // 10:,}", f"seconds, {events:,}", "ratio",
        f"MiB, {events // 10:,}", f"MiB, {events:,}",
    )  # fmt: skip
    text = "Ten times the events; what does not grow is starting up, or bounded by an option."
    return Report(
        target="bench-pipeline",
        figures=tuple(figures),
        sections=(Section("Steps", text, (Table(headings, tuple(rows)),)),),
    )


if __name__ == "__main__":
    sys.exit(main())
