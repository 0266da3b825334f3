"""The fault suite's machinery; its figures are judged by `make chaos`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import MARK, marked_processes, new_mark

pytestmark = pytest.mark.timeout(300)


def start_suite(directory, mark, *arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--directory", str(directory), *arguments],
        env={**os.environ, MARK: mark, "QUICK": "1", "TMPDIR": str(directory.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_quick_form_plays_breaks_reports_and_leaves_nothing_running(tmp_path):
    mark = new_mark()
    suite = start_suite(tmp_path / "chaos", mark)
    output, _ = suite.communicate(timeout=280)
    report = json.loads((tmp_path / "chaos" / "report.json").read_text())
    scenarios = {scenario["name"]: scenario for scenario in report["scenarios"]}
    assert {"swap", "kill indexes", "kill redis", "drop faiss"} <= scenarios.keys(), output
    for scenario in scenarios.values():
        assert scenario["requests"] > 50, output
        assert scenario["checked"] > 0, output
        assert scenario["wrong"] == scenario["hung"] == 0, output
        assert scenario["crashes"] == [], output
    assert "POPULAR" in scenarios["kill redis"]["sources"]
    overload = report["overload"]
    assert overload["codes_at_three_times"]["OK"] > 20, output
    assert overload["health_checks"] > 20, output
    assert overload["health_failures"] == 0, output
    assert len(scenarios["swap"]["releases"]) == 2
    assert "<html" in (tmp_path / "chaos" / "report.html").read_text()
    assert marked_processes(mark) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_suite_leaves_nothing_running(tmp_path, number):
    mark = new_mark()
    suite = start_suite(tmp_path / "chaos", mark, "--only", "swap")
    while not any("tests.chaos.load" in command for command in marked_processes(mark).values()):
        assert suite.poll() is None, suite.communicate()[0]
        time.sleep(0.05)
    suite.send_signal(number)
    suite.communicate(timeout=60)
    assert suite.returncode != 0
    end = time.monotonic() + 20
    while marked_processes(mark) and time.monotonic() < end:
        time.sleep(0.05)  # the kernel ends the children of a killed process, soon
    assert marked_processes(mark) == {}
