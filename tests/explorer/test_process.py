"""`python -m explorer` as a process."""

import json
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from local_stack.processes import Process

SECONDS = 30.0


def start(directory: Path, **settings) -> Process:
    environment = {"EXPLORER_PORT": "0", "EXPLORER_READY_FILE": str(directory / "ready.json")}
    command = [sys.executable, "-m", "explorer"]
    return Process("explorer", command, directory / "log", {**environment, **settings})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_where_it_listens_and_a_signal_ends_it_in_good_order(tmp_path, number):
    process, ready = start(tmp_path), tmp_path / "ready.json"
    try:
        process.wait_until(ready.exists, SECONDS)
        told = json.loads(ready.read_text())
        assert told["pid"] == process.pid
        url = f"http://127.0.0.1:{told['port']}/"
        with urllib.request.urlopen(url) as answer:  # nothing else runs: that is shown
            assert b"recommender down" in answer.read()
        process.send(number)
        assert process.wait(SECONDS) == 0
        assert process.log.read_text() == f"explorer: {url}\n"
    finally:
        process.stop()


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(tmp_path, EXPLORER_PORT=str(taken.getsockname()[1]))
        assert process.wait(SECONDS) == 1
    (line,) = process.log.read_text().splitlines()
    assert line.startswith("EXPLORER_HOST, EXPLORER_PORT: cannot listen on 127.0.0.1:")
