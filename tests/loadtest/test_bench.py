"""The bench: its catalogue, its arithmetic, and its quick form with real stacks."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from loadtest.bench import comparison
from loadtest.bench.catalogue import DIMENSION, generate
from loadtest.bench.comparison import OURS, PLAIN_CHAIN, Ladder, Pairs, highest_rates
from loadtest.bench.report import _rates, p50
from loadtest.latencies import Latencies
from loadtest.measurement import Measurement
from loadtest.plan import LoadPlan
from tests.support.processes import MARK, marked_processes, new_mark

PLAN = LoadPlan("", ("1",), 1.0, 0.0, 1.0, 1, clients=1)


def test_the_same_seed_makes_the_same_catalogue_and_another_one_another():
    one, same, other = (
        generate(3000, users=20),
        generate(3000, users=20),
        generate(3000, 20, seed=2),
    )
    assert (one.vectors == same.vectors).all()
    assert (one.histories == same.histories).all()
    assert not (one.vectors == other.vectors).all()


def test_a_catalogue_has_distinct_articles_and_users_who_viewed_fifty_that_the_model_knows():
    made = generate(3000, users=50)
    assert made.vectors.shape == (3000, DIMENSION)
    assert made.vectors.dtype == np.float32
    assert np.isfinite(made.vectors).all()
    assert (np.diff(made.article_ids) > 0).all()
    known = made.article_ids[made.known]
    for history in made.histories:
        assert len(set(history)) == 50
        assert np.isin(history, known).all()


def measured(milliseconds, *, personalized=100):
    latencies = Latencies()
    latencies.record(milliseconds / 1000)
    return Measurement(
        PLAN, 1.0, {"OK": 100}, {"PERSONALIZED": personalized}, {}, latencies, Latencies(), {}, None
    )


def test_a_ratio_is_the_median_of_the_pairs_ratios():
    """Not the ratio of medians: the machine is slower in one pair than in the next."""
    pairs = Pairs(PLAN)
    pairs.by_stack[OURS].extend(measured(ms) for ms in (1, 20, 3))
    pairs.by_stack[PLAIN_CHAIN].extend(measured(ms) for ms in (2, 10, 6))
    assert pairs.ratio(p50) == pytest.approx(0.5, rel=0.01)


def test_a_rate_is_sustained_when_every_round_was_answered():
    pairs = Pairs(replace(PLAN, rate=10.0, clients=None))
    pairs.by_stack[PLAIN_CHAIN].extend([measured(1), measured(1, personalized=99)])
    assert pairs.plain_sustains
    pairs.by_stack[PLAIN_CHAIN].append(measured(1, personalized=98))
    assert not pairs.plain_sustains


def test_the_highest_rate_is_the_last_rung_that_most_rounds_keep(monkeypatch):
    """One bad round is the machine's; a rung missed between two that are kept is too."""
    late = {OURS: {(20.0, 2), (40.0, 1), (40.0, 2), (160.0, 1), (160.0, 3), (320.0, 1), (320.0, 2)},
            PLAIN_CHAIN: {(10.0, 1), (10.0, 2), (20.0, 1), (20.0, 2)}}  # fmt: skip
    asked = []

    def measure_stack(stack, plan):
        asked.append((stack, plan.rate))
        assert plan.rate * plan.seconds >= 30
        return measured(11 if (plan.rate, plan.seed) in late[stack] else 9)

    monkeypatch.setattr(comparison, "measure_stack", measure_stack)
    names = {name: name for name in (OURS, PLAIN_CHAIN)}
    ladder = Ladder((10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0), 3, least_requests=30)
    found = highest_rates(names, PLAN, 10.0, ladder, between=lambda: None)
    assert found == {OURS: 80.0, PLAIN_CHAIN: 0.0}
    assert max(rate for stack, rate in asked if stack == OURS) == 320.0
    assert max(rate for stack, rate in asked if stack == PLAIN_CHAIN) == 20.0


def test_between_the_rungs_each_stack_is_asked_finer_ones_of_its_own(monkeypatch):
    most = {OURS: 130.0, PLAIN_CHAIN: 15.0}
    asked = []

    def measure_stack(stack, plan):
        asked.append((stack, plan.rate))
        return measured(9 if plan.rate <= most[stack] else 11)

    monkeypatch.setattr(comparison, "measure_stack", measure_stack)
    names = {name: name for name in (OURS, PLAIN_CHAIN)}
    ladder = Ladder((10.0, 30.0, 90.0, 270.0, 810.0), 1, finer=(1.4, 2.0))
    found = highest_rates(names, PLAN, 10.0, ladder, between=lambda: None)
    assert found == {OURS: pytest.approx(126.0), PLAIN_CHAIN: pytest.approx(14.0)}
    rates = {name: [round(rate) for stack, rate in asked if stack == name] for name in names}
    assert rates == {OURS: [10, 30, 90, 270, 810, 126, 180], PLAIN_CHAIN: [10, 30, 90, 14, 20]}


def test_a_stack_that_keeps_no_rung_is_asked_no_finer_ones(monkeypatch):
    monkeypatch.setattr(comparison, "measure_stack", lambda *_: measured(11))
    ladder = Ladder((10.0, 30.0, 90.0), 1, finer=(1.4, 2.0))
    asked = []
    found = highest_rates({OURS: OURS}, PLAN, 10.0, ladder, between=lambda: asked.append(1))
    assert (found, len(asked)) == ({OURS: 0.0}, 2)


@pytest.mark.parametrize(("plain", "ratio"), [(30.0, 4 / 3), (0.0, 40 / 22)])
def test_a_plain_chain_that_keeps_no_rate_counts_as_the_lowest_that_was_asked(plain, ratio):
    rates = {OURS: 40.0, PLAIN_CHAIN: plain}
    figure, *_ = _rates(SimpleNamespace(highest_rates=rates, budget_ms=10.0, lowest_rate=22.0))
    assert figure.value == pytest.approx(ratio)
    assert ("kept not even 22/s" in figure.name) == (not plain)


def _is_positive(name):
    return not any(word in name for word in ("rate", "differ", "pages", "memory"))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """One folder, so that both make their common release once."""
    return tmp_path_factory.mktemp("bench")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("loadtest.bench", "bench"),
        ("loadtest.bench.scale", "bench-scale"),
        ("loadtest.bench.index", "bench-index"),
        ("loadtest.peers", "bench-peers"),
    ],
)
def test_the_quick_form_measures_everything_and_leaves_no_process(
    workplace, monkeypatch, module, target
):
    mark = new_mark()
    monkeypatch.setenv("QUICK", "1")
    monkeypatch.setenv(MARK, mark)
    ended = subprocess.run(
        [sys.executable, "-m", module], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((workplace / "build" / target / "report.json").read_text())
    assert report["target"] == target
    assert (workplace / "build" / target / "report.html").exists()
    assert all(figure["value"] > 0 for figure in report["figures"] if _is_positive(figure["name"]))
    assert marked_processes(mark) == {}


def test_a_null_call_is_measured_by_each_transport_at_either_side():
    command = [
        sys.executable,
        "-m",
        "loadtest.bench.null_call",
        "--rounds",
        "1",
        "--seconds",
        "0.1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head, *rows = (line.split() for line in done.stdout.splitlines())
    assert head[:2] == ["client", "server"]
    sides = [("grpcio", "grpcio"), ("grpcio", "asyncio"), ("asyncio", "grpcio")]
    sides.append(("asyncio", "asyncio"))
    assert [(client, server, callers) for client, server, callers, *_ in rows] == [
        (*side, callers) for callers in ("1", "16") for side in sides
    ]
    assert all(float(figure.replace(",", "")) > 0 for row in rows for figure in row[3:7])
