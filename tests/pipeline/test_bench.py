"""The machinery of `make bench-pipeline`."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq

from pipeline.bench import main, write_log


def test_the_quick_form_reports_time_and_memory_of_each_step(tmp_path):
    command = [sys.executable, "-m", "pipeline.bench", str(tmp_path / "report")]
    environment = {**os.environ, "QUICK": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert figures["events"] == 20_000
    assert figures["preprocess: seconds"] > figures["window: seconds"] > 0
    assert figures["preprocess: peak memory"] > 100  # MiB: TensorFlow alone


def test_an_unknown_scale_is_told(monkeypatch, capsys):
    monkeypatch.setenv("SCALE", "1G")
    assert main([]) == 2
    assert capsys.readouterr().err == "SCALE is 1G; it must be one of 1M, 10M\n"


def test_the_log_has_as_many_views_as_asked_for_and_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        write_log(tmp_path / name, 1_000)
    first, second = (pq.read_table(tmp_path / name) for name in ("a", "b"))
    assert first.equals(second)
    assert len(first) == 1_000
