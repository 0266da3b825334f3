"""Dashboards: as their code says, as Grafana reads them, and of metrics that there are."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import units

from tests.support.grafana import check_dashboard
from tests.support.prometheus import RUNBOOK, known_names, promtool
from tools.dashboards import panels, runbook
from tools.dashboards.__main__ import TARGET, texts

GRAFANA = Path("deploy/grafana")
FILES = sorted(TARGET.glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
OURS = [name for name, value in DASHBOARDS.items() if value["uid"] != runbook.UID]
WORDS = re.compile(r"[a-zA-Z_:][\w:]*")
# Grafana puts these in before it asks Prometheus.
VARIABLES = {
    "$__rate_interval": "20s",
    "$job": "recommender|faiss-server",
    "$instance": ".*",
}


def test_the_files_are_what_the_code_makes():
    assert {path.name: path.read_text() for path in FILES} == texts()


def shown(name: str) -> list[dict[str, Any]]:
    """The panels of a dashboard that are no headings."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL of the dashboards, with where it stands, Grafana's variables put in."""
    for name, board in DASHBOARDS.items():
        for panel in shown(name):
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", target["expr"]
        for note in board["annotations"].get("list", []):
            yield f"{name}: {note['name']}", note["expr"]
        for variable in board["templating"].get("list", []):
            if variable["type"] == "query":
                selector = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
                assert selector is not None
                yield f"{name}: ${variable['name']}", selector[1]


def put_in(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafana_s_model_has_every_field_with_its_type(name):
    told = DASHBOARDS[name]
    for note in told["annotations"].get("list", []):
        # Grafana's Prometheus source reads these; the SDK's model of an annotation has no place.
        assert {"titleFormat", "step"} <= note.keys()
        modelled = {key: note[key] for key in note.keys() - {"titleFormat", "step"}}
        told = {**told, "annotations": {"list": [modelled]}}
    check_dashboard(told)


@pytest.mark.parametrize(
    "change",
    [
        {"heading": "Serving"},
        {"refresh": 10},
        {"graphTooltip": 7},
        {"links": [{"title": "a", "type": "dashboard"}]},
        {"panels": [{"type": "stat", "id": "1"}]},
        {"panels": [{"type": "stat", "options": {"graphMode": "bars"}}]},
        {"panels": [{"type": "stat", "fieldConfig": {"defaults": {"unit": 5}, "overrides": []}}]},
        {"panels": [{"type": "timeseries", "links": [{"title": "a", "href": "/d/x"}]}]},
    ],
)
def test_the_check_of_the_model_sees_what_is_wrong(change):
    with pytest.raises((AssertionError, ValueError)):
        check_dashboard({**DASHBOARDS["runbook"], **change})


def test_promtool_reads_every_expression(tmp_path):
    rules = [
        {"record": "tried:here", "expr": put_in(expression), "labels": {"number": str(number)}}
        for number, (_, expression) in enumerate(expressions())
    ]
    assert len(rules) > 40
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_expressions_name_metrics_that_there_are():
    known = known_names()
    for where, expression in expressions():
        bare = re.sub(r'"[^"]*"', "", put_in(expression))
        bare = re.sub(r"\{[^}]*\}|\b(?:by|on) \([^)]*\)|\[[^\]]*\]", "", bare)
        words = set(WORDS.findall(bare))
        named = {word for word in words if "_" in word or ":" in word or word in {"up", "ALERTS"}}
        named -= {"count_values", "histogram_quantile"}
        assert named, where
        assert named <= known, f"{where}: {named - known}"


def test_no_user_and_no_article_is_asked_for():
    for where, expression in expressions():
        labels = "".join(re.findall(r"\{[^}]*\}|\([^()]*\)", expression))
        assert not re.search(r"\b(user_id|article|item)", labels), where


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_ids_of_their_own_and_room(name):
    placed = DASHBOARDS[name]["panels"]
    ids = [panel["id"] for panel in placed]
    assert len(set(ids)) == len(ids)
    for panel in placed:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations(placed, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} lies on {other['title']}"


@pytest.mark.parametrize("name", OURS)
def test_panels_say_what_they_show_in_which_unit_and_from_where(name):
    known = {value for value in vars(units).values() if isinstance(value, str)}
    for panel in shown(name):
        assert panel["description"], panel["title"]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        assert unit in known or unit.startswith("suffix:"), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_every_alert_has_a_panel_which_leads_to_its_text():
    texts_of = {panel["id"]: panel for panel in DASHBOARDS["runbook"]["panels"]}
    led = set()
    for name in OURS:
        for panel in shown(name):
            for link in panel.get("links", []):
                alert = link["title"].removeprefix("Runbook: ")
                uid, number = re.fullmatch(r"/d/([\w-]+)\?viewPanel=(\d+)", link["url"]).groups()
                assert uid == DASHBOARDS["runbook"]["uid"]
                assert texts_of[int(number)]["title"] == alert
                assert f"{RUNBOOK}#{alert.lower()}" in panel["description"]
                led.add(alert)
    rules = yaml.safe_load(Path("deploy/prometheus/rules/alerts.yml").read_text())
    assert led == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_an_alert_that_the_runbook_lacks_is_refused():
    figure = panels.Figure(title="t", about="a", unit="s", queries=[], alerts=["NoSuchAlert"])
    with pytest.raises(ValueError, match="NoSuchAlert"):
        panels.graph(figure)


def test_dashboards_have_uids_of_their_own():
    uids = [board["uid"] for board in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids) == 3


def test_compose_mounts_what_grafana_is_told_of():
    services = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    grafana = services["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    there = {target: Path(source) for source, target in mounts.items()}
    for kind in GRAFANA.joinpath("provisioning").iterdir():
        assert there[f"/etc/grafana/provisioning/{kind.name}"] == kind
    [provider] = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "recsys.yml").read_text()
    )["providers"]
    assert TARGET.samefile(there[provider["options"]["path"]])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (there[str(home.parent)] / home.name).is_file()


def test_the_data_source_is_the_one_that_dashboards_choose_first():
    [source] = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    scrapes = yaml.safe_load(Path("deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrapes["scrape_interval"]
    for name in OURS:
        [chosen] = [
            variable
            for variable in DASHBOARDS[name]["templating"]["list"]
            if variable["type"] == "datasource"
        ]
        assert chosen["current"]["value"] == source["uid"]
