"""Rules and alerts: sound, tested by promtool, and of metrics that the servers really have."""

import re

import pytest
import yaml

from tests.support.prometheus import (
    PROMETHEUS,
    RUNBOOK,
    names_of_the_servers,
    promtool,
    recorded_names,
)

ALERTS = PROMETHEUS / "rules" / "alerts.yml"


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


def test_rules_name_metrics_that_there_are():
    known = names_of_the_servers() | recorded_names()
    for file in (PROMETHEUS / "rules").glob("*.yml"):
        for expression in re.findall(r"expr: (.*(?:\n {10,}.*)*)", file.read_text()):
            for name in re.findall(r"[\w:]*recsys[\w:]*", expression):
                assert name in known, f"{file}: {name}"
