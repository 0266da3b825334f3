"""Rules and alerts: sound, tested by promtool, and of metrics that the servers really have."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from faiss_server.metrics import FaissServerMetrics
from recommender.service import _Metrics
from releases._metrics import SideCarMetrics
from service_runtime.metrics import CallMetrics
from tf_serving.metrics import ModelMetrics

PROMETHEUS = Path("deploy/prometheus")
ALERTS = PROMETHEUS / "rules" / "alerts.yml"
RUNBOOK = Path("docs/operations.md")


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool; make verify-deploy insists on it (Debian's package prometheus)")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_configuration_and_rules():
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_each_alert_is_heard_and_is_silent_where_it_should():
    promtool("test", "rules", *map(str, (PROMETHEUS / "tests").glob("*.yml")))


def alerts() -> list[dict]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_has_a_test_of_its_own():
    tests = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text())["tests"]
    heard = {
        each["alertname"]
        for test in tests
        for each in test["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert heard == {each["alert"] for each in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in {"page", "ticket"}
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert (file, anchor) == (str(RUNBOOK), alert["alert"].lower())
    headings = re.findall(r"^#+ (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert alert["alert"] in headings


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


def test_rules_name_metrics_that_there_are():
    recorded = set(re.findall(r"record: (\S+)", (PROMETHEUS / "rules/recording.yml").read_text()))
    known = names_of_the_servers()
    for file in (PROMETHEUS / "rules").glob("*.yml"):
        for expression in re.findall(r"expr: (.*(?:\n {10,}.*)*)", file.read_text()):
            for name in re.findall(r"[\w:]*recsys[\w:]*", expression):
                assert name in known | recorded, f"{file}: {name}"
