"""Figures, and the three forms of a report."""

import io
import json
import re

import pytest
from rich.console import Console

from reporting import (
    BarChart,
    Figure,
    LineChart,
    Report,
    Section,
    Series,
    Table,
    print_report,
    write_report,
)


@pytest.fixture
def report():
    sections = (
        Section("Tables & <bars>", "Text.", (Table(("a", "b"), (("x<y", 1.5),)),)),
        Section("Charts", content=(BarChart({"ours": 3.0, "theirs": 0.0}, "ms"),)),
        Section("Lines", content=(LineChart("t", "y", (Series("s", ((0, 1), (2, 5))),)),)),
        Section("Nothing", content=(LineChart("t", "y", ()), BarChart({}))),
    )
    figures = (
        Figure("hr_at_200", 0.75, "share", must=">= 0.72", aim=">= 0.8"),
        Figure("source", "PERSONALIZED", must="== PERSONALIZED"),
        Figure("stage_ms", {"model": 1.25, "search": 0.5}, "ms"),
        Figure("release", 1_700_000_000),
    )
    return Report("demo", figures, details={"rounds": [1, 2]}, sections=sections)


@pytest.mark.parametrize(
    ("value", "must", "holds"),
    [
        (0.72, ">= 0.72", True),
        (0.71, ">=0.72", False),
        (200, "== 200", True),
        (9.9, "< 10", True),
        (10, "< 10", False),
        (10, "<= 10", True),
        (3, "> 3", False),
        ("POPULAR", "== PERSONALIZED", False),
        (1, None, None),
    ],
)
def test_a_figure_holds_when_its_must_does(value, must, holds):
    assert Figure("f", value, must=must).holds is holds


@pytest.mark.parametrize(
    ("value", "must"),
    [(1, "0.72"), (1, ">= fast"), ("text", ">= 1"), ({"a": 1}, ">= 1"), (1, "")],
)
def test_a_comparison_that_cannot_be_made_is_refused(value, must):
    with pytest.raises(ValueError, match="f: "):
        Figure("f", value, must=must)
    with pytest.raises(ValueError, match="f: "):
        Figure("f", value, aim=must)


def test_a_report_holds_unless_a_must_is_missed(report):
    assert report.holds
    assert not Report("demo", (*report.figures, Figure("late", 9, must="< 5"))).holds
    assert Report("demo", (Figure("late", 9, aim="< 5"),)).holds


def test_report_json_has_the_fields_of_the_format(report, tmp_path):
    write_report(report, tmp_path / "build" / "demo")
    document = json.loads((tmp_path / "build" / "demo" / "report.json").read_text())
    assert list(document) == ["target", "commit", "date", "machine", "figures", "rounds"]
    assert document["figures"][0] == {
        "name": "hr_at_200",
        "value": 0.75,
        "unit": "share",
        "must": ">= 0.72",
        "aim": ">= 0.8",
        "holds": True,
    }
    assert document["figures"][2]["value"] == {"model": 1.25, "search": 0.5}
    assert set(document["machine"]) == {"cpu", "cores", "memory_gib", "python", "os"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", document["date"])


def test_report_html_needs_nothing_else_and_escapes_what_it_shows(report, tmp_path):
    write_report(report, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"<(script|link|img)\b|https?://|url\(", html)
    assert "Tables &amp; &lt;bars&gt;" in html
    assert "x&lt;y" in html
    assert html.count("<svg") == 3
    assert "&lt;rect" not in html
    assert "all musts hold" in html


def test_details_may_not_hide_a_field_of_the_format(tmp_path):
    with pytest.raises(ValueError, match="figures"):
        write_report(Report("demo", (), details={"figures": []}), tmp_path)


def test_a_value_that_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(Report("demo", (Figure("f", float("nan")),)), tmp_path)


def test_the_printed_table_names_every_figure_and_its_verdict(report):
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=120))
    text = stream.getvalue()
    for figure in report.figures:
        assert figure.name in text
    assert "model 1.25, search 0.5" in text
    assert "1700000000" in text
    assert "yes" in text
