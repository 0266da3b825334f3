"""What counts as the machine's own standstill, and what a scenario that met one is worth."""

import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from tests.chaos.__main__ import _TRIES, _Suite
from tests.chaos.outcome import judge
from tests.chaos.results import Result
from tests.chaos.stage import Record, Rule, Scenario
from tests.chaos.standstills import Standstill, Standstills
from tests.chaos.verify import Verdict

SMOOTH = Scenario("smooth", Rule.SMOOTH, lambda _: None)
GOOD = Result(10.0, 10.0, 10.01, 0, "OK", 1, "PERSONALIZED")
LATE = Result(20.0, 20.0, 20.05, 0, "DEADLINE_EXCEEDED", 1)
POPULAR = Result(20.01, 20.01, 20.05, 0, "OK", 1, "POPULAR")


def judged(*results, standstills=(), verdict=None, record=None, scenario=SMOOTH):
    verdict = verdict or Verdict(len(results), 0, ())
    return judge(scenario, results, record or Record(), verdict, (), standstills)


def test_a_watcher_that_is_late_for_another_reason_sees_nothing(tmp_path):
    with Standstills.watched(tmp_path / "standstills.txt") as standstills:
        time.sleep(0.5)
        for _ in range(3):
            os.kill(standstills.watcher, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(standstills.watcher, signal.SIGCONT)
            time.sleep(0.1)
        assert all(one.end - one.begin < 0.2 for one in standstills.seen())


STOLEN_ALL_THE_TIME = """
import time
from tests.chaos import standstills
standstills._stolen_seconds = lambda processor: time.monotonic()
standstills.main()
"""


def test_a_watcher_that_is_late_while_the_host_has_the_processor_writes_from_when_to_when(tmp_path):
    path = tmp_path / "standstills.txt"
    path.touch()
    begin = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", STOLEN_ALL_THE_TIME, str(path)]) as watcher:
        try:
            while not any(one.end - one.begin >= 0.2 for one in Standstills(path, 0).seen()):
                watcher.send_signal(signal.SIGSTOP)
                time.sleep(0.3)
                watcher.send_signal(signal.SIGCONT)
                time.sleep(0.2)
                assert watcher.poll() is None
                assert time.monotonic() < begin + 30
        finally:
            watcher.kill()
    seen = Standstills(path, 0).seen()
    assert all(begin < one.begin < one.end < time.monotonic() for one in seen)


@pytest.mark.parametrize(
    ("begin", "end", "spoilt"),
    [
        (20.02, 20.06, True),
        (19.93, 19.97, True),  # what it held up was in the way of both
        (19.90, 19.94, False),
        (20.06, 20.10, False),
        (20.05, 20.10, True),
    ],
)
def test_a_scenario_is_spoilt_by_a_standstill_that_its_requests_met(begin, end, spoilt):
    outcome = judged(GOOD, LATE, POPULAR, standstills=[Standstill(begin, end)])
    assert not outcome.holds
    assert (outcome.lacking, outcome.spoilt) == (2, spoilt)


def test_it_is_not_where_anything_else_is_wrong():
    standstills = [Standstill(20.0, 20.05)]
    elsewhere = Result(30.0, 30.0, 30.05, 0, "UNAVAILABLE", 1)
    assert not judged(GOOD, LATE, elsewhere, standstills=standstills).spoilt
    wrong = Verdict(1, 1, ("mixed",))
    assert not judged(GOOD, LATE, standstills=standstills, verdict=wrong).spoilt
    problem = Record(problems=["took too long"])
    assert not judged(GOOD, LATE, standstills=standstills, record=problem).spoilt
    assert not judged(GOOD, standstills=standstills).spoilt
    faulty = Scenario("faulty", Rule.ONE_HEALTHY, lambda _: None)
    assert not judged(GOOD, LATE, standstills=standstills, scenario=faulty).spoilt


def test_it_is_played_again_but_not_for_ever(tmp_path):
    good = judged(GOOD)
    spoilt = judged(GOOD, LATE, standstills=[Standstill(20.0, 20.05)])
    failed = judged(GOOD, LATE)
    for outcomes, settled, tries in (
        ([good], good, 1),
        ([failed], failed, 1),
        ([spoilt, good], good, 2),
        ([spoilt, failed], failed, 2),
        ([spoilt] * _TRIES, spoilt, _TRIES),
    ):
        suite = _Suite(tmp_path, [SMOOTH], Console(), quick=True, rate=1.0)
        left = iter(outcomes)
        assert suite._settled(SMOOTH, lambda _, left=left: next(left)) is settled
        assert len(suite.spoilt) == tries - 1
        assert next(left, None) is None
