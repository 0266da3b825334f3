"""The demo's machinery on a small log; its figures are judged by `make demo`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import MARK, marked_processes, new_mark

pytestmark = pytest.mark.timeout(300)


# Whoever runs the tests in the background has SIGINT ignored, and children inherit that. A program
# of its own, since a preexec_fn would fork this process with all of gRPC's threads.
HEEDING_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def start_demo(learnt, directory, mark) -> subprocess.Popen:
    command = [sys.executable, "-c", HEEDING_SIGINT, "-m", "local_stack", "demo"]
    command += ["--directory", str(directory)]
    command += ["--events", str(learnt.events), "--items", str(learnt.items)]
    return subprocess.Popen(
        command,
        env={**os.environ, MARK: mark, "QUICK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_shows_candidates_reports_and_leaves_nothing_running(learnt, tmp_path):
    mark = new_mark()
    demo = start_demo(learnt, tmp_path / "demo", mark)
    output, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, output
    assert "Title" in output
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert report["target"] == "demo"
    assert figures["users_asked"] == len(learnt.views)
    assert figures["candidates_per_answer"] == 200
    assert figures["source"] == "PERSONALIZED"
    assert set(figures["stage_ms"]) == {"history", "user_vector", "search"}
    assert figures["same_as_exact_search"] >= 0.99
    assert figures["index_recall_at_200"] >= 0.99
    for name in ("release", "hr_at_200", "popularity_hr_at_200", "seconds_total"):
        assert name in figures
    assert "<html" in (tmp_path / "demo" / "report.html").read_text()
    assert marked_processes(mark) == {}


# Servers only by the one that people send: until they are there a release has to be learnt.
@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("pipeline", signal.SIGINT),
        ("pipeline", signal.SIGTERM),
        ("pipeline", signal.SIGKILL),
        ("tf_serving", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing_running(learnt, tmp_path, number, part):
    mark = new_mark()
    demo = start_demo(learnt, tmp_path / "demo", mark)
    while not any(f"-m\0{part}" in command for command in marked_processes(mark).values()):
        assert demo.poll() is None, demo.communicate()[0]
        time.sleep(0.02)
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode != 0
    end = time.monotonic() + 20
    while marked_processes(mark) and time.monotonic() < end:
        time.sleep(0.02)  # the kernel ends the children of a killed process, soon
    assert marked_processes(mark) == {}


def test_up_and_down_refuse_and_report(tmp_path):
    """Without a stack `down` says so; a log that cannot be read ends `up` with one line."""
    down = subprocess.run(
        [sys.executable, "-m", "local_stack", "down", "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert down.stdout == "nothing is running\n"
    (tmp_path / "bad.csv").write_text("user_id,item_id\n1,2\n")
    up = subprocess.run(
        [sys.executable, "-m", "local_stack", "up", "--directory", str(tmp_path / "up"),
         "--events", str(tmp_path / "bad.csv")],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert up.returncode == 1
    assert "timestamp" in up.stderr
    assert "Traceback" not in up.stderr
