"""`python -m tf_serving` as people and the stack start it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local_stack.processes import tied_to_this_process
from tests.tf_serving.serving import HISTORY, MODEL, Client, SavedModels, Versions
from tf_serving.versions import State

COMMAND = [sys.executable, "-m", "tf_serving"]


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    config = tmp_path / "models.config"
    if not config.exists():
        config.write_text(
            f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{tmp_path / MODEL}" '
            'model_platform: "tensorflow" } }'
        )
    settings = {
        "TF_SERVING_MODEL_CONFIG_FILE": str(config),
        "TF_SERVING_PORT": "0",
        "TF_SERVING_METRICS_PORT": "0",
        "TF_SERVING_POLL_SECONDS": "0.05",
        "TF_SERVING_DRAIN_NOTICE_SECONDS": "0.1",
        "TF_SERVING_READY_FILE": str(tmp_path / "ready.json"),
    }
    return {**os.environ, **settings, **changes}


def ports_of(process: subprocess.Popen[str], tmp_path: Path) -> dict[str, int]:
    ready = tmp_path / "ready.json"
    until = time.monotonic() + 30
    while not ready.exists():
        assert process.poll() is None, "it ended before it listened"
        assert time.monotonic() < until
        time.sleep(0.02)
    ports: dict[str, int] = json.loads(ready.read_text())
    return ports


@contextmanager
def started(tmp_path: Path, saved_models: SavedModels) -> Iterator[subprocess.Popen[str]]:
    """A process that listens and is about to load version 3; killed if the test does not end it."""
    Versions(tmp_path / MODEL).add(3, saved_models.scaled_by(3))
    env = environment(tmp_path)
    command = tied_to_this_process(COMMAND)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_process_serves_a_real_model_and_ends_well_on_sigterm(tmp_path, saved_models):
    with started(tmp_path, saved_models) as process:
        address = f"127.0.0.1:{ports_of(process, tmp_path)['port']}"
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            assert (await Client(channel).status())[3].state == State.AVAILABLE
            assert (await Client(channel).predict(HISTORY))[0] == 3
            process.send_signal(signal.SIGTERM)
            while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                pass
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_sigterm_while_tensorflow_is_being_imported_ends_the_process_well(tmp_path, saved_models):
    with started(tmp_path, saved_models) as process:
        ports_of(process, tmp_path)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


AS_THE_PROCESS_DOES = """
import runpy, sys
from pathlib import Path
import numpy as np
runpy.run_module("tf_serving.__main__", run_name="all_but_serving")
from tf_serving.model import load_model
inputs = {"history": np.full((1, 50), -1), "region": np.full(1, -1)}
load_model(Path(sys.argv[1])).run("serving_default", inputs, ())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_model_is_served_without_keras(saved_models):
    command = [sys.executable, "-c", AS_THE_PROCESS_DOES, str(saved_models.scaled_by(3))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "tensorflow" in imported
    assert "keras" not in imported


def failed_start(env: dict[str, str]) -> str:
    """Start it and answer its one line on standard error."""
    result = subprocess.run(
        tied_to_this_process(COMMAND),
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = failed_start(environment(tmp_path, TF_SERVING_PORT=port))
        assert f"127.0.0.1:{port}" in line
        assert "port is in use" in line
        line = failed_start(environment(tmp_path, TF_SERVING_METRICS_PORT=port))
        assert f"metrics port {port}" in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TF_SERVING_POLL_SECONDS", "often"),
        ("TF_SERVING_THREAD", "2"),
        ("TF_SERVING_MODEL_CONFIG_FILE", "/nowhere/models.config"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_name(tmp_path, variable, value):
    assert failed_start(environment(tmp_path, **{variable: value})).startswith(variable)


def test_a_malformed_model_config_is_one_line_with_file_and_line(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list {\n  config {\n    name = \n")
    line = failed_start(environment(tmp_path))
    assert line.startswith(f"TF_SERVING_MODEL_CONFIG_FILE: {config}:3:")
