"""What Prometheus would say to our files: promtool, and the metrics that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from faiss_server.metrics import FaissServerMetrics
from recommender.service import _Metrics
from releases._metrics import SideCarMetrics
from service_runtime.metrics import CallMetrics, new_registry
from tf_serving.metrics import ModelMetrics

PROMETHEUS = Path("deploy/prometheus")
RECORDING = PROMETHEUS / "rules" / "recording.yml"
RUNBOOK = Path("docs/operations.md")
OF_OTHERS = {"up", "ALERTS", ":tensorflow:cc:saved_model:load_attempt_count"}
"""What Prometheus and TensorFlow Serving have themselves, of that what we ask for."""


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool; make verify-deploy insists on it (Debian's package prometheus)")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def names_of_the_servers() -> set[str]:
    registries = [CollectorRegistry() for _ in range(5)]
    CallMetrics(registries[0])
    FaissServerMetrics(registries[1])
    _Metrics(registries[2])
    SideCarMetrics(registries[3])
    ModelMetrics(registries[4], ("user_tower",))
    names = {name for registry in registries for name in registry._names_to_collectors}
    assert "recsys_rpc_duration_seconds_bucket" in names
    return names


def recorded_names() -> set[str]:
    return set(re.findall(r"record: (\S+)", RECORDING.read_text()))


def known_names() -> set[str]:
    """Every metric that a dashboard may name: rules', servers', Python's, and others'."""
    of_the_process = {
        sample.name for metric in new_registry().collect() for sample in metric.samples
    }
    return names_of_the_servers() | recorded_names() | of_the_process | OF_OTHERS
