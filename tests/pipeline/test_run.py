"""The whole run, and what it leaves behind."""

import csv
import errno
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import __main__ as command_line
from pipeline.errors import SourceError, StepError
from pipeline.exported import ServedTower
from pipeline.options import BigQueryOptions, CollectOptions, RunOptions
from pipeline.report import report_run
from pipeline.run import run
from releases.layout import (
    ARTICLE_IDS_FILE,
    ARTICLE_VECTORS_FILE,
    ATTRIBUTES_FILE,
    POPULAR_FILE,
    Part,
)
from releases.split import Split
from releases.store import ReleaseStore
from releases.verify import verify
from reporting import write_report
from tests.support.releases import publish_tiny


def test_a_run_publishes_a_release_that_verifies(tiny_run):
    store = ReleaseStore(str(tiny_run.store))
    assert store.usable() == [tiny_run.result.manifest.release]
    assert verify(store, tiny_run.result.manifest.release) == tiny_run.result.manifest


def test_the_model_learns_what_the_data_teach(tiny_run):
    evaluation = tiny_run.result.evaluation
    assert evaluation.model.hit_rate[10] > 0.6
    assert evaluation.model.hit_rate[10] > evaluation.popularity.hit_rate[10]


def test_no_title_is_in_the_release(tiny_run):
    for part in Part:
        for path in tiny_run.part(part).rglob("*"):
            assert path.is_dir() or b"Title" not in path.read_bytes(), path


def test_golden_histories_answer_through_model_and_exact_search(tiny_run, tower):
    manifest = tiny_run.result.manifest
    ids = np.load(tiny_run.part(Part.EMBEDDINGS) / ARTICLE_IDS_FILE)
    vectors = np.load(tiny_run.part(Part.EMBEDDINGS) / ARTICLE_VECTORS_FILE)
    assert len(manifest.golden_histories) == len(manifest.golden_queries) == 16
    for golden, query in zip(manifest.golden_histories, manifest.golden_queries, strict=True):
        history = np.full((1, 50), -1, np.int64)
        history[0, : len(golden.history)] = golden.history
        region = np.array([-1 if golden.region_id is None else golden.region_id], np.int64)
        vector, _ = tower.user_vectors(history, region)
        assert np.allclose(vector[0], query.vector, atol=1e-4)
        best = ids[np.argsort(-(vectors @ vector[0]))[: len(golden.expected_article_ids)]]
        assert np.isin(best, golden.expected_article_ids).mean() >= golden.min_overlap


def test_popular_articles_are_ranked_overall_and_for_each_region(tiny_run, articles):
    with np.load(tiny_run.part(Part.INDEX) / POPULAR_FILE) as popular:
        regions, ids, views = popular["region_ids"], popular["article_ids"], popular["views"]
    overall = regions == -1
    assert overall[: overall.sum()].all()
    with tiny_run.events.open(newline="") as stream:
        events = list(csv.DictReader(stream))
    times = [int(event["timestamp"]) for event in events]
    half_life, known = (max(times) - min(times)) / 16, set(articles.ids.tolist())

    def weight(time):
        return round(2**20 * 2 ** ((time - max(times)) / half_life)) / 2**20

    for region in (-1, 9, 70, 71):
        here = [e for e in events if region < 0 or e["region_id"] == str(region)]
        weights = Counter()
        for event in here:
            if int(event["item_id"]) in known:
                weights[int(event["item_id"])] += weight(int(event["timestamp"]))
        expected = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
        listed = regions == region
        assert list(zip(ids[listed], views[listed], strict=True)) == expected
    assert set(regions) == {-1, 9, 70, 71}
    # The last views count here, and nowhere in what the evaluation compares with.
    assert views[overall].sum() > articles.counts.sum()


def test_integer_columns_of_the_items_become_attributes(tiny_run, articles):
    with np.load(tiny_run.part(Part.INDEX) / ATTRIBUTES_FILE) as attributes:
        assert set(attributes.files) == {"article_ids", "attribute:genre"}
        ids = attributes["article_ids"]
        assert ids.tolist() == sorted(articles.ids.tolist())
        assert attributes["attribute:genre"].tolist() == (ids % 7).tolist()


def test_a_release_that_exists_is_refused_before_anything_is_learnt(tiny_run, tmp_path):
    options = RunOptions(
        events=tiny_run.events,
        items=None,
        store=str(tiny_run.store),
        release=tiny_run.result.manifest.release,
    )
    with pytest.raises(StepError, match=r"^window: .* already has release"):
        run(options, tmp_path / "work")
    assert not (tmp_path / "work" / "collect").exists()


def test_a_split_that_goes_on_ends_a_run_before_anything_is_learnt(tiny_run, tmp_path):
    store = ReleaseStore(str(tmp_path / "store"))
    for release in (1, 2):
        publish_tiny(store, tmp_path / "staging", release)
    store.set_split(Split(release=2, share=0.1, changed_at_ms=1))
    told = r"^window: .* 10\.0% of the users get release 2, .* `python -m releases split 2=100%`"
    with pytest.raises(StepError, match=told):
        run(RunOptions(events=tiny_run.events, items=None, store=store.url), tmp_path / "work")
    assert not (tmp_path / "work" / "collect").exists()


def test_a_spec_that_the_vectors_do_not_fit_is_refused_before_anything_is_learnt(tmp_path):
    options = RunOptions(
        events=tmp_path / "none.csv", items=None, store=str(tmp_path / "store"),
        popularity_debias=0.25, index_spec="IVF4,PQ16",
    )  # fmt: skip
    told = (
        r"^index: spec 'IVF4,PQ16': .* multiple .* \(--popularity-debias makes 65 of --dim.* 64\)"
    )
    with pytest.raises(StepError, match=told):
        run(options, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    with pytest.raises(StepError, match=r"^collect: .*no such file"):
        run(replace(options, popularity_debias=0), tmp_path / "work")


def test_a_failing_step_is_named_and_leaves_the_store_as_it_was(tiny_run, tmp_path):
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp\nann,1,1\nann,2,2\nbob,1,1\n")
    options = RunOptions(events=events, items=None, store=str(tmp_path / "store"), release=5)
    with pytest.raises(StepError, match=r"^preprocess: .*at least 2 are needed"):
        run(options, tmp_path / "work")
    with pytest.raises(StepError, match=r"^collect: .*no such file"):
        run(replace(options, events=tmp_path / "none.csv"), tmp_path / "work")
    assert not (tmp_path / "store").exists()


def gone_on_with(options, workdir):
    """Name the steps that a run that fails in `collect` takes over from the run before it."""
    told = []
    with pytest.raises(StepError, match=r"^collect: "):
        run(options, workdir, lambda step, _, message: told.append((step, message)))
    return [step for step, message in told if message == "done before"]


def test_what_an_older_form_of_the_steps_left_is_begun_anew(tmp_path, monkeypatch):
    options = RunOptions(events=tmp_path / "none.csv", items=None, store=str(tmp_path / "store"))
    assert gone_on_with(options, tmp_path / "work") == []
    assert gone_on_with(options, tmp_path / "work") == ["window"]
    monkeypatch.setattr("pipeline.run._FORMAT", "another")
    assert gone_on_with(options, tmp_path / "work") == []


def test_a_run_from_bigquery_is_gone_on_with_for_an_hour(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise SourceError("away")

    monkeypatch.setattr("pipeline.steps.collect", fail)
    place = BigQueryOptions(project="p", source="d.e_*", views="d.v", export_url="gs://b/f")
    files = RunOptions(events=Path(__file__), items=None, store=str(tmp_path / "store"))
    tables = replace(files, events=None, collect=CollectOptions(bigquery=place))
    for name, options, an_hour_later in (("files", files, ["window"]), ("tables", tables, [])):
        workdir = tmp_path / name
        assert gone_on_with(options, workdir) == []
        assert capsys.readouterr().err == ""
        assert gone_on_with(options, workdir) == ["window"]
        told = capsys.readouterr().err
        assert told.startswith("run: going on with the run of 20")
        assert told.endswith(f" UTC in {workdir}\n")
        record = workdir / "window" / "record.json"
        window = json.loads(record.read_bytes())
        record.write_text(json.dumps({**window, "until": window["until"] - 3_600}))
        assert gone_on_with(options, workdir) == an_hour_later
        assert (capsys.readouterr().err == "") == (not an_hour_later)


def test_a_folder_has_one_run_at_a_time(tmp_path):
    workdir = tmp_path / "work"
    options = RunOptions(events=tmp_path / "none.csv", items=None, store=str(tmp_path / "store"))
    told = []

    def run_another(*_):
        with pytest.raises(StepError) as refused:
            run(options, workdir)
        told.append(str(refused.value))

    with pytest.raises(StepError, match=r"^collect: .*no such file"):
        run(options, workdir, run_another)
    ending = "another run is at work there; wait for its end, or give another --workdir"
    assert set(told) == {f"window: {workdir}: {ending}"}
    with pytest.raises(StepError, match=r"^collect: .*no such file"):
        run(options, workdir)


def test_the_command_ends_with_one_line_and_a_code_on_bad_events(tmp_path):
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp\nann,1,1\nann,2,yesterday\n")
    command = [sys.executable, "-m", "pipeline", "run", "--events", str(events)]
    command += ["--store", str(tmp_path / "store"), "--workdir", str(tmp_path / "work")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        f"collect: {events}: line 3: timestamp is 'yesterday', it must be unix seconds or ISO 8601"
    ]


def test_a_second_to_split_at_is_refused_where_nothing_is_split_by_time(capsys):
    arguments = ["run", "--events", "e.csv", "--store", "s"]
    with pytest.raises(SystemExit) as ended:
        command_line.app([*arguments, "--split", "last-view", "--split-since", "5"])
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "split_since: of a split by time alone: leave it out" in told


def test_a_report_that_cannot_be_written_is_told_before_anything_is_learnt(tiny_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "pipeline", "run", "--events", str(tiny_run.events)]
    command += ["--store", str(tmp_path / "store"), "--workdir", str(tmp_path / "work")]
    command += ["--report-dir", str(tmp_path / "file")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    told = f"report: nothing can be written into {tmp_path / 'file'}: File exists"
    assert ended.stderr.splitlines() == [told]
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "work").exists()


def test_a_report_that_fails_after_the_run_is_one_line(tiny_run, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command_line, "run", lambda *_: tiny_run.result)
    monkeypatch.setattr(command_line, "write_report", full)
    arguments = ["run", "--events", "e.csv", "--store", "s", "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        command_line.app(arguments)
    assert ended.value.code == 1
    told = f"report: nothing can be written into {tmp_path}: No space left on device"
    assert capsys.readouterr().err.splitlines() == [told]


def test_importing_the_package_and_its_command_does_not_load_tensorflow():
    code = "import pipeline.__main__, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_report_of_a_run_names_model_and_baselines(tiny_run, tmp_path):
    report = report_run(tiny_run.result, seconds_total=1.0)
    figures = {figure.name: figure.value for figure in report.figures}
    assert figures["hr_at_200"] == tiny_run.result.evaluation.model.hit_rate[200]
    assert {"popularity_hr_at_200", "transitions_hr_at_200", "index_recall_at_200"} <= set(figures)
    write_report(report, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "transitions" in html
    assert Path(tmp_path / "report.json").exists()


def test_the_same_model_is_read_back_from_the_store(tiny_run, tower, sample):
    again = ServedTower(tiny_run.workdir / "export" / f"models/user_tower/{1_700_000_000}")
    users = np.arange(5)
    inputs = sample.test_histories(users), sample.target_regions[users]
    assert np.array_equal(again.user_vectors(*inputs)[0], tower.user_vectors(*inputs)[0])
