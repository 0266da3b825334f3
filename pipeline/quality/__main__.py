"""`python -m pipeline.quality`: DATA names the data set; SEED, QUICK, DATA_DIR, OPTIONS.

DATA_DIR is the folder of the data sets (ml-100k is fetched). SEED=n learns with that seed alone.
OPTIONS are those of `pipeline run`, to compare with the defaults. QUICK=1: of a few users, for an
epoch, which shows that the machinery works.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pipeline.errors import PipelineError
from pipeline.quality.data_sets import DATA_SETS
from pipeline.quality.report import report_quality
from pipeline.quality.trial import try_seed
from releases.errors import ReleaseError
from reporting import print_report, write_report

_DIRECTORY: Final = Path("build") / "quality"
_QUICK_USERS: Final = 300
_QUICK_OPTIONS: Final = ("--max-epochs", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn and judge; answer the exit code."""
    parser = argparse.ArgumentParser("python -m pipeline.quality", description=__doc__)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=_DIRECTORY,
        help="where data, releases and report are written, in a folder named after the data",
    )  # fmt: skip
    place = parser.parse_args(arguments).directory
    name = os.environ.get("DATA", "")
    if name not in DATA_SETS:
        print(f"DATA is {name!r}; it must be one of {', '.join(DATA_SETS)}", file=sys.stderr)
        return 2
    data_set, quick, seed = DATA_SETS[name], bool(os.environ.get("QUICK")), os.environ.get("SEED")
    if seed and not seed.isdecimal():
        print(f"SEED is {seed!r}; it must be a whole number, 0 or more", file=sys.stderr)
        return 2
    seeds = [int(seed)] if seed else range(1, 1 + (1 if quick else data_set.seeds))
    try:
        options = (*(_QUICK_OPTIONS if quick else ()), *shlex.split(os.environ.get("OPTIONS", "")))
    except ValueError as error:
        print(f"OPTIONS cannot be split into words: {error}; close each quote", file=sys.stderr)
        return 2
    directory = place / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        data_dir = Path(os.environ.get("DATA_DIR", "build/data"))
        data = data_set.prepare(data_dir, directory, _QUICK_USERS if quick else None)
        trials = []
        for each in seeds:
            print(f"{name}, seed {each}: learning ...", file=sys.stderr)
            trial = directory / f"seed-{each}"
            shutil.rmtree(trial, ignore_errors=True)
            trial.mkdir()
            trials.append(try_seed(data_set, data, each, trial, options, quick=quick))
    except (PipelineError, ReleaseError, OSError, duckdb.Error) as error:
        print("quality:", *str(error).split(), file=sys.stderr)  # on one line
        return 1
    report = report_quality(name, data_set, tuple(trials), quick=quick)
    print_report(report)
    write_report(report, directory)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
