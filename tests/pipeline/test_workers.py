"""Several processes that train one model learn what a single one learns."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from local_stack.processes import tied_to_this_process
from pipeline.choice import choose_batch_size
from pipeline.errors import TrainingError
from pipeline.options import RunOptions, TrainOptions
from pipeline.records import has_ended
from pipeline.train import TrainedModel, load_tower, train
from pipeline.workers import Workers, _place

# Without dropout nothing but rounding tells the processes' parts of a batch from the whole. The
# transformer, as its learning rate too must not hang on the clock of each.
PLAIN = TrainOptions(
    model="transformer", dimension=8, dropout=0.0, region_dropout=0.0,
    learning_rate=2e-3, batch_size=200, max_epochs=12, patience=12,
)  # fmt: skip


def start_two(tiny_run, tmp_path) -> list[subprocess.Popen]:
    chief, other = free_addresses(2)
    cluster = {"chief": [chief], "worker": [other]}
    tasks = [{"type": "chief", "index": 0}, {"type": "worker", "index": 0}]
    return [start(tiny_run, tmp_path, cluster, task) for task in tasks]


def start(tiny_run, tmp_path, cluster, task) -> subprocess.Popen:
    options = RunOptions(events=None, items=None, store="", train=PLAIN)
    (tmp_path / "options.json").write_bytes(TypeAdapter(RunOptions).dump_json(options))
    command = [sys.executable, "-m", "pipeline", "step", "train"]
    command += ["--options", str(tmp_path / "options.json")]
    command += ["--input", f"preprocess={tiny_run.workdir / 'preprocess'}"]
    command += ["--output", str(tmp_path / "trained")]
    config = json.dumps({"cluster": cluster, "task": task})
    return subprocess.Popen(
        tied_to_this_process(command),
        env=os.environ | {"TF_CONFIG": config},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_addresses(count: int) -> list[str]:
    """Of ports that the kernel chooses: TensorFlow has to be told them before it listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def kill_after_a_round(processes: list[subprocess.Popen], checkpoints: Path) -> None:
    try:
        while not (checkpoints / "checkpoint").exists():  # written last: it names the others
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def first_round_after_the_kill(logs: Path) -> int:
    """Each start writes a file for TensorBoard; rounds are numbered through."""
    _, after = sorted(logs.glob("events.out.tfevents.*"))
    every = EventAccumulator(str(after), size_guidance={"tensors": 0})  # not a sample of ten
    return every.Reload().Tensors("loss/validation")[0].step


@pytest.mark.timeout(300)  # five trainings, four of them in processes of their own
def test_two_that_were_killed_learn_what_one_learns_and_one_of_them_writes(tiny_run, tmp_path):
    killed = start_two(tiny_run, tmp_path)
    kill_after_a_round(killed, tmp_path / "trained" / "checkpoints")
    assert not has_ended(tmp_path / "trained")
    processes = start_two(tiny_run, tmp_path)
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "".join(outputs)
    together = TrainedModel.load(tmp_path / "trained")
    assert first_round_after_the_kill(together.logs) > 1  # they went on, and did not begin anew
    alone = train(tiny_run.result.prepared, PLAIN, tmp_path / "alone")
    for ours, theirs in zip(together.rounds, alone.rounds, strict=True):
        assert ours.epochs == theirs.epochs
        assert ours.training_loss == pytest.approx(theirs.training_loss, abs=1e-3)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-3)
    for ours, theirs in zip(
        load_tower(together).get_weights(), load_tower(alone).get_weights(), strict=True
    ):
        assert np.allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize(
    ("cluster", "task", "place"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), (0, 2)),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), (1, 2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("chief", 0), (0, 3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("worker", 1), (2, 3)),
    ],
)
def test_the_chief_or_the_first_worker_is_the_first(cluster, task, place):
    kind, index = task
    assert _place(json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})) == place


@pytest.mark.parametrize(
    "config",
    ["no JSON", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}'],
)
def test_a_config_that_is_none_is_told(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(TrainingError, match="TF_CONFIG is no cluster"):
        Workers.of_this_process()


def test_a_cluster_of_one_is_no_cluster(monkeypatch):
    config = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    workers = Workers.of_this_process()
    assert (workers.count, workers.is_chief) == (1, True)


@pytest.mark.parametrize(("examples", "workers"), [(100_000, 3), (100, 7), (5, 3), (2, 4)])
def test_each_worker_has_an_equal_part_of_a_batch(examples, workers):
    size = choose_batch_size(PLAIN, examples, workers)
    assert size % workers == 0
    assert size >= workers
    assert choose_batch_size(replace(PLAIN, batch_size=None), examples, workers) % workers == 0
