"""A disk that is full and a process that is killed: one line, and nothing to be seen by servers."""

import shutil
import subprocess
import sys
from pathlib import Path

import apache_beam  # noqa: F401 - errors of Beam are told where Beam is loaded
import psutil
import pytest
import tensorflow as tf

from local_stack.processes import tied_to_this_process
from pipeline._library_errors import told_by_library
from pipeline.steps import REQUIRES

ON_A_SMALL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_a_small_disk(size: str, place: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a disk of some bytes at a place; nobody else sees it."""
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*own, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this machine lets nobody mount a small disk in a namespace of their own")
    return subprocess.run(
        [*own, ON_A_SMALL_DISK, "sh", size, str(place), *command],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("step", "size"), [("preprocess", "40k"), ("train", "100k"), ("export", "100k")]
)
def test_a_full_disk_is_one_line(tiny_run, tmp_path, step, size):
    output = tmp_path / step
    output.mkdir()
    command = [sys.executable, "-m", "pipeline", "step", step, "--output", str(output)]
    command += ["--options", str(tiny_run.workdir / "options.json")]
    command += [f"--input={name}={tiny_run.workdir / name}" for name in REQUIRES[step]]
    ended = on_a_small_disk(size, output, command)
    assert ended.returncode == 1, ended.stderr
    told = ended.stderr.splitlines()[-1]
    assert told.startswith(f"{step}: ")
    assert "No space left on device" in told
    assert "__main__.py" not in ended.stderr  # no traceback of the command


def error_of_beam(text: str) -> RuntimeError:
    return RuntimeError(f"{text} [while running 'Write/Map']")


TRACEBACK = "Traceback (most recent call last):\n  File 'x.py', line 1\nOSError: "


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "a/b; No space left on device"),
         "a/b; No space left on device"),
        (tf.errors.FailedPreconditionError(None, None, "a/b; Read-only file system"),
         "a/b; Read-only file system"),
        (tf.errors.DataLossError(None, None, "truncated record at 7"), "truncated record at 7"),
        (error_of_beam("OSError: [Errno 28] No space left on device"),
         "[Errno 28] No space left on device"),
        (error_of_beam(TRACEBACK + "[Errno 13] Permission denied: 'x'\n"),
         "[Errno 13] Permission denied: 'x'"),
        (tf.errors.InvalidArgumentError(None, None, "Incompatible shapes: [3] vs. [4]"), None),
        (tf.errors.FailedPreconditionError(None, None, "uninitialized variable"), None),
        (error_of_beam("KeyError: 'views'"), None),
        (ValueError("No space left on device"), None),
    ],
)  # fmt: skip
def test_only_what_the_machine_or_the_data_did_is_told_without_a_traceback(error, told):
    assert "apache_beam" in sys.modules
    assert told_by_library(error) == told


def test_a_worker_that_is_killed_is_told(tiny_run, tmp_path):
    command = [sys.executable, "-m", "pipeline", "run", "--events", str(tiny_run.events)]
    command += ["--store", str(tmp_path / "store"), "--workdir", str(tmp_path / "work")]
    with subprocess.Popen(
        tied_to_this_process(command), stderr=subprocess.PIPE, text=True
    ) as process:
        worker = None
        while worker is None:
            assert process.poll() is None, process.communicate()
            children = psutil.Process(process.pid).children(recursive=True)
            worker = next((each for each in children if "step" in each.cmdline()), None)
        worker.kill()
        _, said = process.communicate()
    assert process.returncode == 1
    assert said == "preprocess: its process was ended by signal 9\n"
    assert not (tmp_path / "store").exists()
