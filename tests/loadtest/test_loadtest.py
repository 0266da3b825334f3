"""What is measured is what callers would see."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import grpc
import numpy as np
import psutil
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from loadtest import worker
from loadtest.errors import LoadTestError
from loadtest.find_max import MaxRateSearch, keeps_budget
from loadtest.latencies import Latencies
from loadtest.measurement import Measurement, measure
from loadtest.plan import LoadPlan, arrivals, read_users
from loadtest.report import summary_of
from loadtest.usage import StolenTime
from loadtest.worker import Asker
from tests.support.certificates import SERVER_NAME


def plan_for(scripted, **changed) -> LoadPlan:
    plan = LoadPlan(
        target=f"127.0.0.1:{scripted.port}",
        users=("ada", "bo"),
        seconds=1.0,
        warmup_seconds=0.0,
        deadline_seconds=5.0,
        seed=1,
        rate=100.0,
    )
    return replace(plan, **changed)


def test_a_server_that_stalls_shows_in_the_percentiles(scripted):
    """Arrivals go on while it stalls: not one call is slow, as in a closed loop, but all due."""
    scripted.stall_seconds = 0.5
    measured = measure(plan_for(scripted))
    assert measured.latencies.count == measured.answered > 50
    assert measured.latencies.percentile_ms(99) > 400
    assert measured.latencies.percentile_ms(70) > 100


def test_a_generator_that_falls_behind_hides_nothing(scripted):
    """Counted from the actual send, these would all be quick."""

    async def answered(*_, **__):
        await asyncio.sleep(0)
        return pb2.GetCandidatesResponse(source=pb2.SOURCE_PERSONALIZED)

    async def run() -> Asker:
        asker = Asker(plan_for(scripted, rate=1000.0, seconds=0.2), answered)
        # The start lies in the past, as if the generator had been stopped for 0.3 s.
        await asker.run(time.monotonic() - 0.5)
        return asker

    asker = asyncio.run(run())
    assert asker.latencies.percentile_ms(1) > 250
    assert asker.lags.percentile_ms(1) > 250


@pytest.mark.parametrize("answer_seconds", [0.0, 0.02])
def test_nothing_is_sent_before_it_is_due(scripted, answer_seconds):
    """An event loop's clock may go by milliseconds, and round down."""
    sent = []

    async def answered(*_, **__):
        sent.append(time.monotonic())
        await asyncio.sleep(answer_seconds)
        return pb2.GetCandidatesResponse(source=pb2.SOURCE_PERSONALIZED)

    plan = plan_for(scripted, rate=100.0, seconds=0.5)

    async def run() -> float:
        start = time.monotonic() + 0.01
        await Asker(plan, answered).run(start)
        return start

    due = uvloop.run(run()) + arrivals(100.0, 0.5, plan.seed)
    assert len(sent) == due.size > 20
    assert (np.array(sent) >= due).all()


def test_a_generator_that_may_not_go_first_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    worker._go_first()


def test_a_server_that_is_not_there_is_named(scripted, tmp_path):
    done = run_command(
        "--target", "127.0.0.1:1", "--users", "5", "--rate", "50", "--directory", str(tmp_path)
    )  # fmt: skip
    assert done.returncode != 0
    assert "127.0.0.1:1: failed to connect to 127.0.0.1:1" in done.stderr


def test_a_ca_that_is_none_is_told_by_its_option(scripted, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    done = run_command(
        "--target", f"127.0.0.1:{scripted.tls_port}", "--users", "5", "--rate", "50",
        "--tls-ca", str(ca), "--directory", str(tmp_path),
    )  # fmt: skip
    assert done.returncode != 0
    assert "--tls-ca, --tls-cert, --tls-key: " in done.stderr
    assert "Traceback" not in done.stderr


def test_every_outcome_is_counted(scripted):
    measured = measure(plan_for(scripted), processes=2)
    assert dict(measured.codes) == {"OK": measured.requests}
    assert dict(measured.sources) == {"PERSONALIZED": measured.requests}
    assert dict(measured.releases) == {"7": measured.requests}
    assert measured.stages["search"].percentile_ms(50) == pytest.approx(2.0, rel=0.01)
    assert set(scripted.users) == {"ada", "bo"}
    scripted.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    refused = measure(plan_for(scripted))
    assert dict(refused.codes) == {"RESOURCE_EXHAUSTED": refused.requests}
    assert (refused.answered, refused.latencies.count, refused.personalized_share) == (0, 0, 0)


def test_clients_ask_again_once_answered(scripted):
    measured = measure(plan_for(scripted, rate=None, clients=3, seconds=0.5), processes=2)
    assert measured.answered == measured.requests > 3


def test_the_warm_up_does_not_count(scripted):
    measured = measure(plan_for(scripted, warmup_seconds=1.0))
    assert measured.requests < len(scripted.users)


def test_nothing_due_is_a_failure(scripted):
    with pytest.raises(LoadTestError, match="not one request was due"):
        measure(plan_for(scripted, rate=0.001))


def test_what_the_host_takes_is_told_as_a_share_of_all_cores(monkeypatch):
    """Counters of a machine whose host took 0.3 s of each of two cores within a second."""
    readings = iter([SimpleNamespace(steal=7.0), SimpleNamespace(steal=7.6)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    assert StolenTime().share(1.0) == pytest.approx(0.3)


def test_a_measurement_tells_what_the_host_took(scripted, monkeypatch):
    monkeypatch.setattr(StolenTime, "share", lambda *_: 0.25)
    found = measure(plan_for(scripted))
    assert found.stolen_share == 0.25
    assert summary_of(found)["stolen_share"] == 0.25


def test_a_histogram_is_made_once_for_each_stage_and_not_for_each_answer(monkeypatch):
    """One is 140 KB of counts, through the caches of the cores that servers run on."""
    made = []
    monkeypatch.setattr(worker, "Latencies", lambda: made.append(Latencies()) or made[-1])
    asker = Asker(LoadPlan("", ("1",), 1.0, 0.0, 1.0, 1, clients=1), None)
    before = len(made)
    for _ in range(10):
        asker._count_stages("history;dur=0.2, search;dur=1.0")
    assert len(made) - before == 2
    assert [asker.stages[stage].count for stage in ("history", "search")] == [10, 10]


def test_without_a_count_of_it_nothing_was_taken(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=1.0))
    assert StolenTime().share(1.0) == 0.0


def test_the_servers_use_is_measured(scripted):
    usage = measure(plan_for(scripted), pids={"server": os.getpid()}).usage
    assert usage is not None
    used = usage.by_process["server"]
    assert used.cpu_seconds > 0
    assert used.context_switches > 0
    assert used.memory_mib > 10
    with pytest.raises(LoadTestError, match="gone: there is no process"):
        measure(plan_for(scripted), pids={"gone": 2**22 + 1})


def test_budget_is_kept_by_personalized_answers_only(scripted):
    assert keeps_budget(measure(plan_for(scripted, rate=20.0)), 1000.0)
    assert not keeps_budget(measure(plan_for(scripted, rate=20.0)), 0.001)
    scripted.source = pb2.SOURCE_POPULAR
    assert not keeps_budget(measure(plan_for(scripted, rate=20.0)), 1000.0)


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_writes_a_report(scripted, tmp_path):
    done = run_command(
        "--target", f"127.0.0.1:{scripted.port}", "--users", "5", "--rate", "50,100",
        "--clients", "2", "--duration", "0.5", "--warmup", "0", "--directory", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["asked"] for one in report["measurements"]] == ["50/s", "100/s", "2 clients"]
    assert "Latency over rate" in (tmp_path / "report.html").read_text()
    assert "p99 at 100/s" in done.stdout


def test_the_command_speaks_tls_with_a_certificate_of_its_own(scripted, certificates, tmp_path):
    done = run_command(
        "--target", f"127.0.0.1:{scripted.tls_port}", "--users", "5", "--clients", "1",
        "--duration", "0.3", "--warmup", "0", "--directory", str(tmp_path),
        "--tls-ca", str(certificates.ca), "--tls-cert", str(certificates.certificate),
        "--tls-key", str(certificates.key), "--tls-name", SERVER_NAME,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert scripted.users


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--users", "5", "--rate", "5", "--tls-name", "n"], "--tls-name need --tls-ca"),
        (["--users", "nobody.txt", "--rate", "5"], "--users: nobody.txt is neither"),
        (["--users", "5"], "give --rate, --clients or"),
        (["--users", "5", "--rate", "-3"], "take positive numbers"),
        (
            ["--users", "5", "--rate", "5", "--stack", "nowhere"],
            "--stack: nowhere holds no running",
        ),
    ],
)
def test_the_command_says_what_is_wrong(arguments, says):
    done = run_command(*arguments)
    assert done.returncode != 0
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_the_command_fails_where_nothing_was_answered(scripted, tmp_path):
    scripted.code = grpc.StatusCode.UNAVAILABLE
    done = run_command(
        "--target", f"127.0.0.1:{scripted.port}", "--users", "5", "--rate", "50",
        "--duration", "0.5", "--warmup", "0", "--directory", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    assert "answered nothing: {'UNAVAILABLE'" in done.stderr


@given(st.floats(1, 2000), st.floats(0.1, 20), st.integers(0, 100))
def test_arrivals_are_a_poisson_process(rate, seconds, seed):
    times = arrivals(rate, seconds, seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < seconds)).all()
    expected = rate * seconds
    assert abs(len(times) - expected) <= 6 * math.sqrt(expected) + 6
    assert (times == arrivals(rate, seconds, seed)).all()


@given(st.lists(st.floats(1e-6, 50), min_size=1, max_size=200), st.integers(1, 4))
def test_merged_histograms_are_the_histogram_of_all(seconds, parts):
    whole, pieces = Latencies(), [Latencies() for _ in range(parts)]
    for number, one in enumerate(seconds):
        whole.record(one)
        pieces[number % parts].record(one)
    merged = Latencies.merged(piece.encode() for piece in pieces)
    assert merged.count == len(seconds)
    for percentile in (50, 90, 100):
        assert merged.percentile_ms(percentile) == whole.percentile_ms(percentile)
    assert whole.percentile_ms(100) == pytest.approx(max(seconds) * 1000, rel=2e-3, abs=2e-3)


@given(st.floats(20, 20_000))
def test_the_search_finds_the_highest_rate(true_rate):
    search = MaxRateSearch(50)
    for _ in range(100):
        rate = search.next_rate
        if rate is None:
            break
        search.tell(kept=rate <= true_rate)
    assert search.next_rate is None
    assert search.best is not None
    assert true_rate / 1.1 <= search.best <= true_rate


def test_one_failure_may_be_anothers_doing():
    search = MaxRateSearch(50)
    search.tell(kept=False)
    assert search.next_rate == 50
    search.tell(kept=True)
    assert (search.best, search.next_rate) == (50, 75)


def test_users_are_a_number_or_a_file(tmp_path):
    assert read_users("3") == ("1", "2", "3")
    file = tmp_path / "users.txt"
    file.write_text("ada\n\nbo\n")
    assert read_users(str(file)) == ("ada", "bo")
    file.write_text("\n")
    with pytest.raises(LoadTestError, match="has no user"):
        read_users(str(file))


def test_a_plan_travels_as_json(scripted):
    plan = plan_for(scripted)
    assert LoadPlan.from_json(plan.to_json()) == plan
    assert isinstance(measure(plan), Measurement)
