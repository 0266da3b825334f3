"""A few kills of a small run: the machinery of `make test-resume`."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.processes import MARK, marked_processes, new_mark


@pytest.mark.timeout(400)
def test_a_run_that_is_killed_and_repeated_makes_the_same_release(tmp_path):
    mark = new_mark()
    environment = {**os.environ, MARK: mark, "QUICK": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.resume", str(tmp_path / "report")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert figures["kills"] == 2
    # The process of a step ends with the one that started it.
    assert marked_processes(mark) == {}
