"""The bench: its catalogue, its arithmetic, and its quick form with real stacks."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from loadtest.bench import ladder
from loadtest.bench.catalogue import DIMENSION, generate
from loadtest.bench.comparison import OURS, PLAIN_CHAIN, Pairs
from loadtest.bench.ladder import Ladder, Rung, climb, highest
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
        PLAN, 1.0, {"OK": 100}, {"PERSONALIZED": personalized}, {}, latencies, Latencies(), {},
        None, 0.0,
    )  # fmt: skip


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


class Machine:
    """Stands in for measuring: each stack's p99 by rate, and what the host takes of each piece."""

    def __init__(self, monkeypatch, p99_ms, stolen=lambda _: 0.0):
        self.asked = []
        self._p99_ms, self._stolen = p99_ms, stolen
        monkeypatch.setattr(ladder, "measure_stack", self._measure)

    def _measure(self, stack, plan):
        self.asked.append((stack, round(plan.rate)))
        stolen = self._stolen(len(self.asked))
        late = 1000.0 if stolen > 0.01 else 0.0
        return replace(measured(self._p99_ms(stack, plan.rate) + late), stolen_share=stolen)

    def rates_of(self, stack):
        return [rate for name, rate in self.asked if name == stack]


def climbed(rates, pieces=1, finer=(), stacks=(OURS, PLAIN_CHAIN), least_requests=0):
    steps = Ladder(rates, 1.0, pieces, least_requests, finer)
    return climb({name: name for name in stacks}, PLAN, 10.0, steps, between=lambda: None)


def test_a_stack_is_done_once_it_has_missed_two_rates_in_a_row(monkeypatch):
    late = {OURS: {20.0, 80.0, 160.0}, PLAIN_CHAIN: {10.0, 20.0}}
    machine = Machine(monkeypatch, lambda stack, rate: 11 if rate in late[stack] else 9)
    rungs = climbed((10.0, 20.0, 40.0, 80.0, 160.0, 320.0))
    assert {name: highest(each) for name, each in rungs.items()} == {OURS: 40.0, PLAIN_CHAIN: 0.0}
    assert machine.rates_of(OURS) == [10, 20, 40, 80, 160]
    assert machine.rates_of(PLAIN_CHAIN) == [10, 20]


def test_between_the_rungs_each_stack_is_asked_finer_ones_of_its_own(monkeypatch):
    most = {OURS: 130.0, PLAIN_CHAIN: 15.0}
    machine = Machine(monkeypatch, lambda stack, rate: 9 if rate <= most[stack] else 11)
    rungs = climbed((10.0, 30.0, 90.0, 270.0, 810.0), finer=(1.4, 2.0))
    assert highest(rungs[OURS]) == pytest.approx(126.0)
    assert highest(rungs[PLAIN_CHAIN]) == pytest.approx(14.0)
    assert machine.rates_of(OURS) == [10, 30, 90, 270, 810, 126, 180]
    assert machine.rates_of(PLAIN_CHAIN) == [10, 30, 90, 14, 20]


def test_a_stack_that_keeps_no_rate_is_asked_no_finer_ones(monkeypatch):
    machine = Machine(monkeypatch, lambda *_: 11)
    rungs = climbed((10.0, 30.0, 90.0), finer=(1.4, 2.0), stacks=[OURS])
    assert (highest(rungs[OURS]), machine.rates_of(OURS)) == (0.0, [10, 30])


def test_a_rate_is_asked_in_as_many_pieces_as_make_the_requests(monkeypatch):
    machine = Machine(monkeypatch, lambda *_: 9)
    climbed((10.0, 100.0), pieces=2, least_requests=50, stacks=[OURS])
    assert machine.rates_of(OURS) == [10] * 5 + [100] * 2


def test_what_was_measured_while_the_host_took_the_cores_is_asked_again(monkeypatch):
    machine = Machine(monkeypatch, lambda *_: 9, stolen=lambda number: 0.3 if number < 3 else 0.001)
    (rung,) = climbed((10.0,), pieces=3, stacks=[OURS])[OURS]
    assert (rung.is_kept, rung.stolen_share, len(machine.asked)) == (True, 0.001, 5)


def test_where_the_host_is_never_quiet_the_quietest_pieces_are_judged(monkeypatch):
    loud = (0.05, 0.006, 0.2, 0.004, 0.3, 0.005)
    machine = Machine(monkeypatch, lambda *_: 9, stolen=lambda number: loud[number - 1])
    (rung,) = climbed((10.0,), pieces=3, stacks=[OURS])[OURS]
    assert (rung.is_kept, rung.stolen_share, len(machine.asked)) == (True, 0.006, 6)


def test_answers_that_are_not_personalized_keep_no_rate():
    pieces = [measured(9), measured(9, personalized=97)]
    assert not Rung.of(10.0, pieces, 10.0).is_kept
    assert Rung.of(10.0, [measured(9), measured(9, personalized=98)], 10.0).is_kept


@pytest.mark.parametrize(("plain", "ratio"), [((9, 11), 30 / 10), ((11, 11), 30 / 10), ((9, 9), 1)])
def test_a_plain_chain_that_keeps_no_rate_counts_as_the_lowest_that_was_asked(plain, ratio):
    rungs = {
        name: [Rung.of(rate, [measured(ms)], 10.0) for rate, ms in zip((10, 30), each, strict=True)]
        for name, each in ((OURS, (9, 9)), (PLAIN_CHAIN, plain))
    }
    figure, *_ = _rates(SimpleNamespace(rungs=rungs, budget_ms=10.0))
    assert figure.value == pytest.approx(ratio)
    assert ("kept not even 10/s" in figure.name) == (plain == (11, 11))


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
