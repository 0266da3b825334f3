"""The gate: what is refused, and that a refused release leaves the one in service alone."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StepError
from pipeline.evaluate import Evaluation
from pipeline.gate import Candidate, decide
from pipeline.index import IndexedArticles
from pipeline.metrics import RankingMetrics
from pipeline.options import GateOptions, PreprocessOptions, RunOptions, TrainOptions
from pipeline.report import report_run
from pipeline.run import run
from releases.errors import ReleaseError
from releases.layout import ARTICLE_VECTORS_FILE, Part, part_path
from releases.store import ReleaseStore
from tests.pipeline.conftest import RELEASE, synthetic_events, write_csv

HOUR = 3600
NOW = 1_700_000_000.0
TRAINING = TrainOptions(
    dimension=16, hidden_units=(32,), learning_rate=1e-2, batch_size=32, max_epochs=10
)
LAST_VIEW = PreprocessOptions(split="last-view")
HEADER = "user_id,item_id,timestamp,region_id"


def metrics(hit_rate: float) -> RankingMetrics:
    return RankingMetrics({200: hit_rate}, {200: hit_rate / 2}, hit_rate / 4, 0.5)


def evaluation(ours=0.5, popularity=0.3, in_service=None, model=None) -> Evaluation:
    return Evaluation(
        Path("evaluate"),
        model or metrics(ours),
        metrics(popularity),
        metrics(0.4),
        None if in_service is None else metrics(in_service),
        user_count=10,
        test_user_count=10,
        unknown_targets=0,
        seen_removed=True,
    )


@pytest.fixture
def judged(tiny_run, tmp_path):
    """Decides about a release beside one in service that had HR@200 0.5 and 100 articles."""
    manifest = tiny_run.result.manifest.model_copy(
        update={"offline_metrics": {"hr_at_200": 0.5, "ndcg_at_200": 0.25}, "article_count": 100}
    )
    prepared = replace(tiny_run.result.prepared, article_count=100, cut_off=int(NOW) - HOUR)

    def judge(options=None, *, recall=0.995, beside=True, articles=100, agreement=1.0, **hit_rates):
        candidate = Candidate(
            evaluation(**{"in_service": 0.5 if beside else None, **hit_rates}),
            IndexedArticles(tmp_path, RELEASE + 1, "IVF4,Flat", 4, 2, recall),
            replace(prepared, article_count=articles),
            agreement,
        )
        return decide(
            options or GateOptions(), candidate, manifest if beside else None, NOW, tmp_path
        )

    return judge


def test_a_release_as_good_as_the_one_in_service_passes(judged):
    assert judged().accepted
    assert judged(beside=False).accepted


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"ours": 0.29, "popularity": 0.3, "beside": False}, "HR@200 / popularity is 0.9667"),
        ({"ours": 0.44}, "HR@200 / release 1700000000 on the same users is 0.88, must be >= 0.9"),
        (
            {"ours": 0.34, "in_service": 0.3},
            "HR@200 / that of release 1700000000 when it came is 0.68, must be >= 0.7",
        ),
        ({"articles": 79}, "articles / release 1700000000 is 0.79, must be >= 0.8"),
        ({"agreement": 0.05}, "golden users, as exact search is 0.05, must be >= 0.95"),
        ({"recall": 0.98}, "index recall@200 is 0.98, must be >= 0.99"),
        (
            {"options": GateOptions(max_age_hours=0.5)},
            "age of the newest event is 1, must be <= 0.5",
        ),
    ],
)
def test_each_shortcoming_is_a_reason_of_its_own(judged, given, reason):
    decision = judged(**given)
    assert not decision.accepted
    # NDCG is half of HR here, so that both tell the same.
    found = [each for each in decision.reasons if not each.startswith("NDCG")]
    assert len(found) == 1
    assert found[0].startswith(reason)


def test_a_ranking_that_is_worse_within_the_200_is_refused(judged):
    """As in a catalogue of 60 articles, where HR@200 is 1 whatever was learnt."""
    worse = replace(metrics(0.5), ndcg={200: 0.1})
    decision = judged(model=worse)
    assert [each.split(" /")[0] for each in decision.reasons] == ["NDCG@200"] * 3


def test_old_events_are_refused_only_where_an_age_is_given(judged):
    assert judged(GateOptions(max_age_hours=2)).accepted


def test_where_neither_finds_anything_nothing_is_worse(judged):
    assert judged(ours=0.0, popularity=0.0, beside=False).accepted


@pytest.fixture
def store(tiny_run, tmp_path):
    """A store of its own with the tiny run's release."""
    return str(shutil.copytree(tiny_run.store, tmp_path / "store"))


def options(tmp_path, store, events, **more) -> RunOptions:
    fields = {"items": None, "train": TRAINING, "preprocess": LAST_VIEW, **more}
    return RunOptions(events=events, store=store, release=RELEASE + 1, **fields)


def test_the_same_log_again_passes_beside_the_release_in_service(tiny_run, store, tmp_path):
    result = run(options(tmp_path, store, tiny_run.events), tmp_path / "work")
    assert result.manifest is not None, result.decision.reasons
    assert ReleaseStore(store).usable() == [RELEASE + 1, RELEASE]
    # Asked through its own model: what it was measured to be when it came, on the same users.
    theirs = result.evaluation.in_service
    assert theirs.hit_rate == pytest.approx(tiny_run.result.evaluation.model.hit_rate, abs=0.02)


def poisoned(tmp_path):
    """The same views, but which article was viewed is shuffled among all of them."""
    rows = synthetic_events()
    articles = [row[1] for row in rows]
    random.Random(5).shuffle(articles)
    shuffled = [
        (user, a, at, region) for (user, _, at, region), a in zip(rows, articles, strict=True)
    ]
    return write_csv(tmp_path / "poisoned.csv", HEADER, shuffled)


def test_a_poisoned_log_is_refused_and_the_old_release_stays(store, tmp_path):
    before = ReleaseStore(store).listing()
    result = run(options(tmp_path, store, poisoned(tmp_path)), tmp_path / "work")
    assert result.manifest is None
    assert any("when it came" in reason for reason in result.decision.reasons)
    assert ReleaseStore(store).listing() == before
    report = report_run(result, 1.0)
    assert not report.holds
    assert report.sections[0].text.endswith("was refused; the store is as it was.")


def test_a_refused_release_is_published_when_told_to(store, tmp_path):
    told = options(tmp_path, store, poisoned(tmp_path), gate=GateOptions(publish_anyway=True))
    result = run(told, tmp_path / "work")
    assert not result.decision.accepted
    assert ReleaseStore(store).usable()[0] == RELEASE + 1


def test_the_command_ends_red_with_the_reason_and_a_report(store, tmp_path):
    events = poisoned(tmp_path)
    command = [sys.executable, "-m", "pipeline", "run", "--events", str(events), "--store", store]
    command += ["--workdir", str(tmp_path / "work"), "--max-epochs", "1"]
    command += ["--release", str(RELEASE + 1), "--max-age-hours", "24"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"gate: release {RELEASE + 1} is not published: ")
    assert "age of the newest event is " in line
    report = json.loads((tmp_path / "work" / "report.json").read_text())
    refused = [figure["name"] for figure in report["figures"] if figure["holds"] is False]
    assert "age of the newest event" in refused


def test_a_release_in_service_that_cannot_be_had_whole_ends_the_run(tiny_run, store, tmp_path):
    vectors = tmp_path / "store" / part_path(Part.EMBEDDINGS, RELEASE) / ARTICLE_VECTORS_FILE
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(StepError, match=r"^evaluate: .*vectors") as failed:
        run(options(tmp_path, store, tiny_run.events), tmp_path / "work")
    assert isinstance(failed.value.__cause__, ReleaseError)
