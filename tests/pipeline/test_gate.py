"""The gate: what is refused, and that a refused release leaves the one in service alone."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.errors import StepError
from pipeline.evaluate import Evaluation, Hits
from pipeline.gate import Candidate, Decision, decide
from pipeline.goldens import Goldens
from pipeline.index import IndexedArticles
from pipeline.metrics import RankingMetrics
from pipeline.options import GateOptions, RunOptions
from pipeline.report import report_run
from pipeline.steps import REQUIRES, run_step
from releases.errors import ReleaseError
from releases.layout import ARTICLE_VECTORS_FILE, Part, part_path
from releases.manifest import IndexInfo
from releases.store import ReleaseStore
from tests.pipeline.conftest import RELEASE

HOUR = 3600
NOW = 1_700_000_000.0


def metrics(hit_rate: float) -> RankingMetrics:
    return RankingMetrics({200: hit_rate}, {200: hit_rate / 2}, hit_rate / 4, 0.5)


def evaluation(
    ours=0.5, popularity=0.3, in_service=None, model=None, unknown=0, seen=0
) -> Evaluation:
    return Evaluation(
        Path("evaluate"),
        model or metrics(ours),
        metrics(popularity),
        metrics(0.4),
        None if in_service is None else metrics(in_service),
        user_count=10,
        test_user_count=10,
        hits=Hits(both=3, model_only=2, popularity_only=1, neither=4),
        unknown_targets=unknown,
        seen_targets=seen,
        seen_removed=True,
    )


@pytest.fixture
def judged(tiny_run, tmp_path):
    """Decides about a release beside one in service that had HR@200 0.5 and 100 articles."""
    manifest = tiny_run.result.manifest.model_copy(
        update={"offline_metrics": {"hr_at_200": 0.5, "ndcg_at_200": 0.25}, "article_count": 100}
    )
    prepared = replace(tiny_run.result.prepared, article_count=100, cut_off=int(NOW) - HOUR)

    def judge(options=None, *, recall=0.995, beside=True, articles=100, agreement=1.0, **evaluated):
        candidate = Candidate(
            evaluation(**{"in_service": 0.5 if beside else None, **evaluated}),
            IndexedArticles(
                tmp_path,
                RELEASE + 1,
                IndexInfo(type="IVF4,Flat", lists=4, nprobe=2, recall_at_200=recall),
            ),
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


@pytest.mark.parametrize(("asked", "least"), [(1.0, 0.95), (0.99, 0.95), (0.9, 0.81), (0.5, 0.25)])
def test_golden_users_may_miss_as_much_as_the_recall_that_was_asked_for(judged, asked, least):
    options = GateOptions(min_recall=asked)
    assert judged(options, recall=1.0, agreement=least).accepted
    (reason,) = judged(options, recall=1.0, agreement=least - 0.01).reasons
    assert reason.startswith("golden users, as exact search")


def test_old_events_are_refused_only_where_an_age_is_given(judged):
    assert judged(GateOptions(max_age_hours=2)).accepted


def test_where_neither_finds_anything_nothing_is_worse(judged):
    assert judged(ours=0.0, popularity=0.0, beside=False, unknown=4, seen=5).accepted


def test_where_nothing_could_be_found_any_model_would_do_and_none_is_accepted(judged):
    found = {"ours": 0.0, "popularity": 0.0, "beside": False, "unknown": 4, "seen": 6}
    (reason,) = judged(**found).reasons
    assert reason.startswith("users whose next view can be found is 0, must be >= 1: of 10 next")
    assert "4 are of articles that the model does not know" in reason
    assert "6 of what the user had viewed before" in reason
    assert judged(GateOptions(publish_anyway=True), **found).lets_through


def test_next_views_of_articles_viewed_before_are_counted(tiny_run, sample, articles):
    told = tiny_run.result.evaluation
    seen = [
        target in articles.ids and target in sample.viewed(user)
        for user, target in enumerate(sample.targets)
    ]
    assert told.seen_targets == sum(seen) > 0


@pytest.fixture
def store(tiny_run, tmp_path):
    """A store of its own with the tiny run's release."""
    return str(shutil.copytree(tiny_run.store, tmp_path / "store"))


@dataclass
class Steps:
    """Single steps after the tiny run's training, into a store and with folders of their own."""

    folders: dict[str, Path]
    options: RunOptions
    workdir: Path

    def run(self, step: str, **more) -> Path:
        output = self.workdir / step
        inputs = {name: self.folders[name] for name in REQUIRES[step]}
        run_step(step, replace(self.options, **more), inputs, output)
        self.folders[step] = output
        return output


@pytest.fixture
def steps(tiny_run, store, tmp_path):
    folders = {step: tiny_run.workdir / step for step in REQUIRES}
    options = RunOptions(events=tiny_run.events, items=None, store=store)
    return Steps(folders, options, tmp_path / "work")


def test_the_same_model_passes_beside_the_release_in_service(tiny_run, steps):
    evaluation = Evaluation.load(steps.run("evaluate"))
    # Asked through its own model: what it was measured to be when it came, on the same users.
    assert evaluation.in_service == tiny_run.result.evaluation.model == evaluation.model
    decision = Decision.load(steps.run("gate"))
    assert decision.accepted, decision.reasons
    assert any(check.name.endswith("on the same users") for check in decision.checks)


OLD = GateOptions(max_age_hours=1.0)  # the tiny run's log ended years ago


def test_what_is_refused_is_not_published_and_what_was_copied_of_it_goes(steps, tmp_path):
    empty = ReleaseStore(str(tmp_path / "empty"))
    steps.run("copy", store=empty.url)
    assert empty.stored() == {RELEASE}
    decision = Decision.load(steps.run("gate", store=empty.url, gate=OLD))
    assert not decision.lets_through
    assert empty.stored() == set()
    with pytest.raises(StepError, match=r"^publish: the gate refused this release: age of the new"):
        steps.run("publish", store=empty.url, gate=OLD)
    assert empty.published() == []


def test_a_refused_release_is_published_when_told_to(steps, tmp_path):
    told = {"store": str(tmp_path / "empty"), "gate": replace(OLD, publish_anyway=True)}
    decision = Decision.load(steps.run("gate", **told))
    assert decision.lets_through
    assert not decision.accepted
    steps.run("publish", **told)
    assert ReleaseStore(told["store"]).usable() == [RELEASE]


def test_a_manifest_that_is_not_sound_is_a_step_s_error_of_one_line(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(Goldens, "queries", lambda _: ())
    empty = ReleaseStore(str(tmp_path / "empty"))
    steps.run("copy", store=empty.url)
    with pytest.raises(StepError, match=r"^publish: Manifest: golden_queries: .*at least 1 item"):
        steps.run("publish", store=empty.url)
    # The copy waits to be gone on with.
    assert (empty.published(), empty.claimed()) == ([], {RELEASE})


def test_a_release_in_service_that_cannot_be_had_whole_ends_the_run(steps, store):
    vectors = Path(store) / part_path(Part.EMBEDDINGS, RELEASE) / ARTICLE_VECTORS_FILE
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(StepError, match=r"^evaluate: .*vectors") as failed:
        steps.run("evaluate")
    assert isinstance(failed.value.__cause__, ReleaseError)


def test_a_report_of_a_refused_release_says_so(tiny_run, judged):
    decision = judged(ours=0.1)
    report = report_run(replace(tiny_run.result, manifest=None, decision=decision), 1.0)
    assert not report.holds
    assert report.sections[0].text.endswith("was refused; the store is as it was.")
