"""When a step is killed."""

import sys

from pipeline.records import RECORD_FILE
from tests.resume.killing import KillPoint, Workflow

STEP = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1]) / "train"
folder.mkdir(parents=True, exist_ok=True)
time.sleep(0.8)
(folder / sys.argv[2]).touch()
time.sleep(60)
"""


def workflow(tmp_path):
    """A workflow whose only step takes 0.8 s."""
    made = Workflow(tmp_path, [])
    made._command = [sys.executable, "-c", STEP, str(made.workdir), RECORD_FILE]
    return made


def test_a_long_step_that_ended_before_its_middle_is_done_again_and_met_under_way(tmp_path):
    killed = workflow(tmp_path).kill_at(KillPoint("train", "middle"), usual_seconds=4.0)
    assert killed.was_under_way
    assert killed.ended == {}


def test_a_kill_that_comes_too_late_every_time_says_so(tmp_path):
    killed = workflow(tmp_path).kill_at(KillPoint("train", "middle"), usual_seconds=60.0)
    assert not killed.was_under_way
    assert list(killed.ended) == ["train"]
