"""`up` and `down`: what is learnt when, and a stack that is left running."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack import __main__ as command_line
from local_stack.errors import StackError
from local_stack.stack import Address, read_address
from local_stack.supervisor import start_supervisor
from releases.errors import StoreError
from releases.store import ReleaseStore
from tests.support.processes import MARK, marked_processes, new_mark
from tests.support.releases import publish_tiny

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def learnt_from(monkeypatch):
    """What `up` learns from, without learning; nothing is started either."""
    calls = []
    monkeypatch.setattr(
        command_line, "learn_release", lambda options, *_: calls.append(options.events)
    )
    monkeypatch.setattr(command_line, "start_supervisor", lambda *_, **__: None)
    monkeypatch.setattr(command_line, "read_address", lambda *_: Address(1, 2, 3))
    return calls


def up(directory, *arguments):
    command_line.app(["up", "--directory", str(directory), *arguments], standalone_mode=False)


def test_a_release_is_learnt_where_none_is_usable(learnt_from, tmp_path):
    (tmp_path / "store" / "releases").mkdir(parents=True)
    up(tmp_path)
    assert learnt_from == [None]
    store = ReleaseStore(str(tmp_path / "store"))
    publish_tiny(store, tmp_path / "staging", 5)
    up(tmp_path)
    assert learnt_from == [None]
    store.withdraw(5)
    up(tmp_path)
    assert learnt_from == [None, None]


def test_events_that_are_given_are_learnt_from_though_there_is_a_release(learnt_from, tmp_path):
    publish_tiny(ReleaseStore(str(tmp_path / "store")), tmp_path / "staging", 5)
    events = tmp_path / "views.csv"
    events.touch()
    up(tmp_path, "--events", str(events))
    assert learnt_from == [events]
    up(tmp_path, "--items", str(events))
    assert learnt_from == [events, None]


def run(mark, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "local_stack", *arguments],
        env={**os.environ, MARK: mark, "QUICK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_pid_file_of_a_stack_that_was_killed_is_taken_for_no_stack(monkeypatch, tmp_path):
    (tmp_path / "supervisor.pid").write_text(str(os.getpid()))  # the pid is used again
    monkeypatch.setattr(sys, "executable", "false")  # what is started ends at once
    with pytest.raises(StackError, match="the stack ended; see "):
        start_supervisor(tmp_path)


def test_a_store_that_cannot_be_read_is_one_line(monkeypatch, tmp_path):
    def out_of_reach(*_):
        raise StoreError("the store is out of reach")

    monkeypatch.setattr(command_line, "learn_release", out_of_reach)
    monkeypatch.setattr(sys, "argv", ["local_stack", "up", "--directory", str(tmp_path)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match=r"^local_stack: the store is out of reach$"):
        command_line.main()


@pytest.fixture
def marked():
    """A mark for processes; those that a failed test leaves behind are ended."""
    mark = new_mark()
    yield mark
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_up_serves_is_refused_twice_ends_with_its_parts_and_down_leaves_nothing(
    learnt, tmp_path, marked
):
    shutil.copytree(learnt.store, tmp_path / "store")
    collected = learnt.store.parent / "pipeline" / "collect"
    shutil.copytree(collected, tmp_path / "pipeline" / "collect")
    place = ("--directory", str(tmp_path))
    started = run(marked, "up", "--free-ports", *place)
    assert started.returncode == 0, started.stderr
    recommender = read_address(tmp_path / "stack", "recommender")
    assert f"recommender  {recommender.target} " in started.stdout
    assert ask(recommender).source == pb2.SOURCE_PERSONALIZED
    # The histories of the users that it was learnt from are there.
    assert ask(recommender, learnt.views[0].user_id, recent=()).source == pb2.SOURCE_PERSONALIZED

    second = run(marked, "up", "--free-ports", *place, "--events", str(learnt.events))
    assert second.returncode == 1
    assert second.stderr == "local_stack: the stack is up already; `make down` stops it\n"
    assert ReleaseStore(str(tmp_path / "store")).usable() == [learnt.manifest.release]
    assert ask(recommender).source == pb2.SOURCE_PERSONALIZED

    (faiss,) = (p for p, line in marked_processes(marked).items() if "-m\0faiss_server" in line)
    os.kill(faiss, signal.SIGKILL)
    until(lambda: marked_processes(marked) == {})
    told = (tmp_path / "supervisor.log").read_text().splitlines()[-1]
    assert told.startswith("local_stack: faiss-server ended with -9")
    assert run(marked, "down", *place).stdout == "nothing is running\n"

    assert run(marked, "up", "--free-ports", *place).returncode == 0
    assert ask(read_address(tmp_path / "stack", "recommender")).source == pb2.SOURCE_PERSONALIZED
    assert run(marked, "down", *place).stdout == "stopped\n"
    assert marked_processes(marked) == {}


def ask(recommender: Address, user_id="u", recent=(1000,)) -> pb2.GetCandidatesResponse:
    with grpc.insecure_channel(recommender.target) as channel:
        request = pb2.GetCandidatesRequest(user_id=user_id, recent_article_ids=recent, limit=10)
        return pb2_grpc.RecommenderServiceStub(channel).GetCandidates(request, timeout=5)


def test_the_python_of_the_readme_runs_as_it_stands(running):
    """But for the port, and for article ids of the log that was learnt from."""
    snippet = README.read_text().split("```python\n")[1].split("```")[0]
    for written, here in (
        ("127.0.0.1:50051", running.stack.addresses["recommender"].target),
        ("[50, 181]", "[1000, 1001]"),
    ):
        assert snippet.count(written) == 1
        snippet = snippet.replace(written, here)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    answer, source = ended.stdout.splitlines()
    assert len(answer.partition("]")[0].split(",")) == 10
    assert source == "SOURCE_PERSONALIZED FALLBACK_REASON_UNSPECIFIED"
