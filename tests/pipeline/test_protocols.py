"""Published protocols against questions, ranks and means worked out by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.errors import PipelineError, TooLittleDataError
from pipeline.estimates import at_cutoffs, estimate
from pipeline.evaluate_command import evaluate_release
from pipeline.holdout import HoldOut, scan
from pipeline.judgement_report import judgement_sections
from pipeline.judging import judge
from pipeline.metrics import MISSED
from pipeline.protocols import hold_out_of, questions
from pipeline.served import Answers, ServedRelease

USERS = {
    "ann": [(5, 1), (9, 2), (5, 3), (3, 8)],
    "bob": [(1, 7), (9, 8), (1, 9)],
    "cat": [(7, 9)],
}


@pytest.fixture
def shards(tmp_path):
    rows = [
        {
            "user_id": user,
            "article_ids": [article for article, _ in views],
            "region_ids": [70] * len(views),
            "viewed_at": [second for _, second in views],
        }
        for user, views in USERS.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "histories.parquet")
    return [tmp_path / "histories.parquet"]


def ask(shards, protocol, since=None):
    asked = questions(shards, protocol, hold_out_of(protocol, since, scan(shards)))
    return asked, [
        (int(user), row[row >= 0].tolist(), int(target))
        for user, row, target in zip(asked.users, asked.histories, asked.targets, strict=True)
    ]


def test_leave_one_out_asks_for_each_user_s_last_view(shards):
    asked, found = ask(shards, "leave-one-out")
    assert found == [(0, [5, 9], 3), (1, [9, 1], 1)]  # 5 was viewed twice
    assert asked.viewed(0).tolist() == [5, 9, 5]
    assert asked.learnt.tolist() == [True, True, True, False, True, True, False, True]
    assert asked.regions.tolist() == [70, 70]


def test_a_split_by_time_asks_for_the_last_view_since_then(shards):
    asked, found = ask(shards, "time-split", since=8)
    assert found == [(0, [5, 9], 3), (1, [9, 1], 1)]
    assert asked.learnt.tolist() == [True, True, True, False, True, False, False, False]


def test_session_prefixes_ask_for_every_view_but_the_first(shards):
    _, found = ask(shards, "session-prefix", since=7)
    assert found == [(0, [5, 9], 3), (1, [1], 9), (1, [9, 1], 1)]


def test_leave_one_out_knows_no_second(shards):
    with pytest.raises(PipelineError, match="--since says nothing to leave-one-out"):
        ask(shards, "leave-one-out", since=8)


def test_nothing_to_ask_is_told(shards):
    with pytest.raises(TooLittleDataError, match="no view is held out"):
        ask(shards, "session-prefix", since=10)


def test_ranks_are_places_in_the_answer_and_ties_count_against_the_target():
    answers = Answers(
        np.array([[4, 7, 9], [4, 7, 9], [4, 7, 9], [4, -1, -1]]),
        np.array([[3, 2, 1], [3, 2, 2], [3, 2, 1], [3, -9, -9]], np.float32),
    )
    assert answers.ranks(np.array([4, 7, 8, 4]), MISSED).tolist() == [1, 3, MISSED, 1]


def test_metrics_of_known_ranks():
    found = at_cutoffs(np.array([1, 3, 12, MISSED]), np.arange(4), (10, 20))
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {
            "HR@10": 2 / 4,
            "HR@20": 3 / 4,
            "NDCG@10": (1 + 1 / 2) / 4,
            "NDCG@20": (1 + 1 / 2 + 1 / np.log2(13)) / 4,
            "MRR@10": (1 + 1 / 3) / 4,
            "MRR@20": (1 + 1 / 3 + 1 / 12) / 4,
        }
    )


def test_the_interval_is_that_of_independent_users():
    values = np.array([1.0, 0.0, 1.0, 0.0])
    alone = estimate(values, np.arange(4))
    assert (alone.value, alone.half_width) == (0.5, pytest.approx(1.96 * 0.5 / 2))
    # Two users who always answer alike: as wide as that of two answers.
    twice = estimate(values[[0, 0, 1, 1]], np.array([8, 8, 3, 3]))
    assert (twice.value, twice.half_width) == (0.5, pytest.approx(1.96 * 0.5 / np.sqrt(2)))


def test_a_release_is_worth_as_much_as_the_workflow_said(tiny_run):
    """The index of so few articles misses none; both leave out what was viewed."""
    judgement = evaluate_release(
        tiny_run.events, str(tiny_run.store), "leave-one-out", remove_seen=True
    )
    evaluation = tiny_run.result.evaluation
    assert judgement.question_count == evaluation.user_count
    assert judgement.unknown_targets == evaluation.unknown_targets
    for ours, theirs in (
        (judgement.model, evaluation.model),
        (judgement.transitions, evaluation.transitions),
    ):
        assert ours["HR@10"].value == pytest.approx(theirs.hit_rate[10], abs=0.02)
        assert ours["NDCG@10"].value == pytest.approx(theirs.ndcg[10], abs=0.02)
    assert sum(each.count for each in judgement.segments) == 2 * judgement.question_count


@pytest.mark.parametrize("protocol", ["time-split", "session-prefix"])
def test_a_release_that_learnt_from_what_is_asked_for_is_refused(tiny_run, protocol):
    last = tiny_run.result.manifest.data.last_event
    with pytest.raises(PipelineError, match=f"learnt from views up to second {last}, and what is"):
        evaluate_release(
            tiny_run.events, str(tiny_run.store), protocol, since=last, remove_seen=False
        )


@pytest.fixture
def with_held_out(tiny_run, tmp_path):
    """Make a store whose manifest says that something else was held out; it has no model."""

    def store(held_out, copied=()):
        path = tmp_path / "store" / "releases" / f"{tiny_run.result.release}.json"
        path.parent.mkdir(parents=True)
        manifest = tiny_run.result.manifest
        data = manifest.data.model_copy(update={"held_out": held_out})
        path.write_text(manifest.model_copy(update={"data": data}).model_dump_json())
        for name in copied:
            (tmp_path / "store" / name).symlink_to(tiny_run.store / name)
        return str(tmp_path / "store")

    return store


def test_last_views_of_a_release_that_was_split_by_time_are_refused_before_it_is_fetched(
    tiny_run, with_held_out
):
    assert tiny_run.result.manifest.data.held_out == "last-view"
    with pytest.raises(PipelineError, match=r"split by time .*: give a release of --split last-v"):
        evaluate_release(tiny_run.events, with_held_out("time"), "leave-one-out", remove_seen=True)


def test_questions_that_may_have_been_learnt_are_counted_and_told(tiny_run, with_held_out):
    store, events = with_held_out(None, ("models", "embeddings", "indexes")), tiny_run.events
    told = evaluate_release(events, str(tiny_run.store), "leave-one-out", remove_seen=True)
    assert told.within_learnt == 0
    judgement = evaluate_release(events, store, "leave-one-out", remove_seen=True)
    last = tiny_run.result.manifest.data.last_event
    late = evaluate_release(events, store, "time-split", since=last + 1, remove_seen=True)
    assert 0 < judgement.within_learnt < judgement.question_count
    assert judgement.within_learnt == judgement.question_count - late.question_count
    (quality, _) = judgement_sections(judgement, "leave-one-out")
    assert f" {judgement.within_learnt} of the views asked for are no newer than" in quality.text
    (quality, _) = judgement_sections(late, "time-split")
    assert "no newer" not in quality.text


def test_each_view_of_a_session_but_the_first_is_asked_of_model_and_index(tiny_run, tmp_path):
    shards, since = tiny_run.result.collected.histories, 1_600_000_400
    asked = questions(shards, "session-prefix", HoldOut("time", since))
    served = ServedRelease.fetch(str(tiny_run.store), None, tmp_path)
    judgement = judge(served, asked, remove_seen=False)
    views = [
        at
        for user in pq.read_table([*shards]).to_pylist()
        for at in user["viewed_at"][1:]
        if at >= since
    ]
    assert judgement.question_count == len(views) > judgement.user_count
    assert judgement.model["HR@10"].value > judgement.popularity["HR@10"].value


def test_the_command_writes_a_report_and_tells_what_is_wrong(tiny_run, tmp_path):
    command = ["evaluate", "--protocol", "leave-one-out", "--events", str(tiny_run.events)]
    command += ["--report-dir", str(tmp_path / "report")]
    done = CliRunner().invoke(app, [*command, "--store", str(tiny_run.store)])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {figure["name"] for figure in report["figures"]} >= {"HR@10", "popularity: HR@200"}
    assert report["seen_removed"] is True
    done = CliRunner().invoke(app, [*command, "--store", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "has no release to evaluate" in done.stderr
