"""`python -m tests.images`: builds the images, brings the stack up, and breaks it under load.

Where no Docker answers it starts one through WITH_ENGINE, a program that runs a command with one.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trustme

from reporting import Figure, Report, Section, Table, print_report, write_report
from tests.images.engine import BASE, Stack, build, compressed_bytes, inspect
from tests.images.load import Load
from tests.support.certificates import Files
from tests.support.events import write_events
from tests.support.program import run_program
from tests.support.redis_users import users_with

_DIRECTORY: Final = Path("build") / "images-test"
_WITH_ENGINE: Final = Path("..") / "shared" / "containers" / "with-engine.sh"
_MOST_MB: Final = {"recommender": 100, "faiss-server": 130}
_OURS: Final = ("recommender", "faiss-server", "model-server")
_MOST_START_SECONDS: Final = 5.0
_NAMES: Final = ("recommender", "faiss-server", "model-server", "redis", "localhost")
_MB: Final = 1_000_000
_LOOKED_AT_SECONDS: Final = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, start, break, measure; answer the exit code."""
    if not _docker_answers():
        return _again_with_an_engine()
    given = list(sys.argv[1:] if arguments is None else arguments)
    build()
    with tempfile.TemporaryDirectory(prefix="images-test-") as place:
        report = _measure(Path(place))
    print_report(report)
    write_report(report, Path(given[0]) if given else _DIRECTORY)
    return 0 if report.holds else 1


def _docker_answers() -> bool:
    docker = shutil.which(os.environ.get("DOCKER", "docker"))
    command = [docker or "false", "info"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _again_with_an_engine() -> int:
    engine = os.environ.get("WITH_ENGINE", str(_WITH_ENGINE))
    if "DOCKER_HOST" in os.environ or shutil.which(engine) is None:
        print(f"no Docker answers, and {engine} is not there to start one", file=sys.stderr)
        return 2
    return subprocess.run([engine, sys.executable, "-m", "tests.images"], check=False).returncode


def _measure(place: Path) -> Report:
    figures = _sizes()
    certificates = _certificates(place / "certificates")
    stack = Stack(_learnt(place), certificates)
    rows: list[tuple[str, str, str]] = []
    try:
        figures.append(Figure("until all is healthy", stack.up(), "s"))
        figures += _looked_at(stack)
        with Load(stack.ports(), certificates) as load:
            load.counted()
            for name in stack.containers():
                figures.append(_started(name, stack.kill_and_start(name)))
                load.follow(stack.ports())
                figures.append(_failed(f"killed and started: {name}", load.counted(), rows))
            before = set(stack.ports())
            stack.up(recommenders=4)
            new = sorted(set(stack.ports()) - before)
            with Load(new, certificates) as added:
                time.sleep(_LOOKED_AT_SECONDS)
                figures.append(_failed("recommenders 2 to 4", load.counted(), rows))
                figures.append(_failed("asked of the new ones", added.counted(), rows))
            load.follow(stack.ports())
            stack.up(recommenders=2)
            figures.append(_failed("recommenders 4 to 2", load.counted(), rows))
    finally:
        stack.down()
    section = Section("Under load", content=(Table(("what", "answers", "failed"), tuple(rows)),))
    return Report(target="images-test", figures=tuple(figures), sections=(section,))


def _sizes() -> list[Figure]:
    base = compressed_bytes(BASE)
    return [
        Figure(
            f"{image}, compressed, without its base",
            (compressed_bytes(f"recsys-{image}") - base) / _MB,
            "MB",
            must=f"<= {most}",
        )
        for image, most in _MOST_MB.items()
    ]


def _certificates(folder: Path) -> Path:
    ca = trustme.CA()
    Files(folder).write(ca.issue_cert(*_NAMES), ca)
    _write_redis_users(folder)
    _readable_by_all(folder)
    return folder


def _write_redis_users(folder: Path) -> None:
    passwords = {user: secrets.token_urlsafe() for user in ("recommender", "faiss_server")}
    (folder / "users.acl").write_text(users_with(**passwords))
    for user, password in passwords.items():
        name = user.replace("_", "-")
        (folder / f"redis-{name}").write_text(f"{name}:{password}\n")


def _learnt(place: Path) -> Path:
    """Publish a small release into a folder that containers may read."""
    store = place / "store"
    command = [sys.executable, "-m", "pipeline", "run", "--store", str(store)]
    command += ["--events", str(write_events(place / "events.csv"))]
    command += ["--workdir", str(place / "work"), "--split", "last-view", "--max-epochs", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    place.chmod(0o755)
    _readable_by_all(store)
    return store


def _readable_by_all(folder: Path) -> None:
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)


def _looked_at(stack: Stack) -> list[Figure]:
    ours = [name for name in stack.containers() if "redis" not in name]
    found = {name: inspect(name) for name in ours}
    as_root = [name for name, each in found.items() if each["Config"]["User"] in {"", "0", "root"}]
    writable = [name for name, each in found.items() if not each["HostConfig"]["ReadonlyRootfs"]]
    return [
        Figure("containers of ours", len(ours)),
        Figure("that run as root", len(as_root), must="== 0"),
        Figure("that may write to their root file system", len(writable), must="== 0"),
    ]


def _started(name: str, seconds: float) -> Figure:
    ours = any(kind in name for kind in _OURS)
    must = f"<= {_MOST_START_SECONDS:g}" if ours else None
    return Figure(f"until healthy after a start: {name}", seconds, "s", must=must)


def _failed(what: str, counts: Counter[str], rows: list[tuple[str, str, str]]) -> Figure:
    failed = sum(count for outcome, count in counts.items() if outcome.startswith("failed"))
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    rows.append((what, told, str(failed)))
    return Figure(f"failed requests, {what}", failed, must="== 0")


if __name__ == "__main__":
    run_program(main)
