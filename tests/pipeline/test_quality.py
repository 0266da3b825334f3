"""The machinery of `make quality`, on made-up views in the form of the real data."""

import gzip
import itertools
import json
from pathlib import Path

import pytest

from pipeline.errors import EventsError
from pipeline.quality.__main__ import main
from pipeline.quality.data_sets import DATA_SETS, QualityData
from pipeline.quality.trial import _asked_by, _command
from tests.pipeline.conftest import synthetic_events


@pytest.fixture
def data_dir(tmp_path):
    """Views whose last column says that every other article is in the benchmark."""
    rows = sorted((user, second, article) for user, article, second, _ in synthetic_events())
    lines = [f"{user},{article},{second},{article % 2}" for user, second, article in rows]
    text = "\n".join(["user_id,item_id,timestamp,in_sasrec", *lines])
    (tmp_path / "ml-1m").mkdir()
    with gzip.open(tmp_path / "ml-1m" / "interactions.csv.gz", "wt") as file:
        file.write(text)
    return tmp_path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`python -m pipeline.quality` in this process, which has loaded TensorFlow already."""

    def run(**environment):
        for name, value in {"DATA_DIR": str(tmp_path), **environment}.items():
            monkeypatch.setenv(name, value)
        return main([str(tmp_path / "build")])

    return run


@pytest.mark.timeout(300)
def test_the_quick_form_reports_quality_and_cost(data_dir, tmp_path, run, capsys):
    code = run(DATA="ml-1m-sasrec", QUICK="1", SEED="3")
    assert code == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "build" / "ml-1m-sasrec" / "report.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert 0 < figures["HR@10, as served"] <= 1
    assert figures["SavedModel on one thread, batch of 1"] > 0
    assert figures["peak memory"] > 0.1  # GiB: TensorFlow alone
    assert list(report["seeds"]) == ["3"]
    assert report["seen_removed"] is True
    assert "Nearest articles" in (tmp_path / "build/ml-1m-sasrec/report.html").read_text()


@pytest.mark.parametrize(
    ("environment", "code", "told"),
    [
        ({"DATA": "diginetica"}, 1, "diginetica/interactions.csv.gz: no such file; DATA_DIR names"),
        ({"DATA": "netflix"}, 2, "must be one of ml-1m-sasrec, ml-1m, diginetica, ml-100k"),
        (
            {"DATA": "ml-100k", "SEED": "one"},
            2,
            "SEED is 'one'; it must be a whole number, 0 or more",
        ),
        ({"DATA": "ml-100k", "OPTIONS": "--model 'mean"}, 2, "No closing quotation; close each"),
    ],
)
def test_what_is_missing_or_unknown_is_told(run, capsys, environment, code, told):
    assert run(**environment) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_only_rows_of_the_benchmark_count(data_dir, tmp_path):
    with pytest.raises(EventsError, match="no such file"):
        DATA_SETS["diginetica"].prepare(data_dir, tmp_path)
    few = DATA_SETS["ml-1m-sasrec"].prepare(data_dir, tmp_path)
    size = few.events.stat().st_size
    assert few.since is None
    assert few.items is None
    assert DATA_SETS["ml-1m"].prepare(data_dir, tmp_path).events.stat().st_size > size


@pytest.mark.parametrize(
    ("name", "since", "told"),
    [
        ("diginetica", 8, ["--split", "time", "--split-since", "8", "--keep-seen"]),
        ("ml-1m", None, ["--split", "last-view"]),
    ],
)
def test_the_workflow_holds_out_what_the_protocol_asks_for(name, since, told):
    data = QualityData(Path("events"), Path("items"), since)
    asked = _asked_by(DATA_SETS[name], data)
    assert asked == ["--events", "events", "--items", "items", *told]


def test_options_do_not_change_what_is_reported():
    data = QualityData(Path("events"), None, None)
    options = ("--model", "mean-pooling", "--seed", "9", "--store", "other", "--split", "time")
    command = _command(DATA_SETS["ml-1m"], data, 3, Path("here"), options)
    last = {name: value for name, value in itertools.pairwise(command) if name.startswith("--")}
    assert last["--model"] == "mean-pooling"
    assert (last["--seed"], last["--store"], last["--split"]) == ("3", "here/store", "last-view")


def test_the_test_begins_with_its_first_view_and_one_without_views_is_told(tmp_path):
    (tmp_path / "diginetica").mkdir()
    place = tmp_path / "diginetica" / "interactions.csv.gz"
    header = "user_id,item_id,timestamp,split"
    with gzip.open(place, "wt") as file:
        file.write(f"{header}\na,1,5,train\nb,1,9,test\nb,2,8,test")
    assert DATA_SETS["diginetica"].prepare(tmp_path, tmp_path).since == 8
    with gzip.open(place, "wt") as file:
        file.write(f"{header}\na,1,5,train\nb,1,9,train")
    with pytest.raises(EventsError, match="none of the rows that count is one with split = 'test'"):
        DATA_SETS["diginetica"].prepare(tmp_path, tmp_path)
