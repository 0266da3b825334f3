"""The job for Vertex AI: its form, and that what it runs trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.options import RunOptions, TrainOptions
from pipeline.train import TrainedModel

OPTIONS = RunOptions(
    events=None, items=None, store="s3://shop/it's",
    train=TrainOptions(dimension=8, hidden_units=(8,), max_epochs=1, batch_size=64),
)  # fmt: skip


def job(tmp_path, *more: str, trained: str = "gs://shop/run/train"):
    path = tmp_path / "options.json"
    path.write_bytes(TypeAdapter(RunOptions).dump_json(OPTIONS))
    command = ["vertex-job", "--image", "image:1", "--options", str(path)]
    command += ["--prepared", "gs://shop/run/preprocess", "--trained", trained, *more]
    return CliRunner().invoke(app, command)


def test_several_machines_are_a_chief_and_the_others(tmp_path):
    done = job(tmp_path, "--machines", "4", "--machine-type", "c3-highcpu-22")
    assert done.exit_code == 0, done.output
    spec = json.loads(done.stdout)
    chief, others = spec["workerPoolSpecs"]
    assert (chief["replicaCount"], others["replicaCount"]) == (1, 3)
    assert chief["containerSpec"] == others["containerSpec"]
    assert chief["machineSpec"] == {"machineType": "c3-highcpu-22"}
    assert len(json.loads(job(tmp_path).stdout)["workerPoolSpecs"]) == 1


def test_what_the_container_runs_trains(tiny_run, tmp_path):
    (pool,) = json.loads(job(tmp_path).stdout)["workerPoolSpecs"]
    container = pool["containerSpec"]
    assert container["imageUri"] == "image:1"
    mounted = tmp_path / "gcs" / "shop" / "run"
    mounted.mkdir(parents=True)
    (mounted / "preprocess").symlink_to(tiny_run.workdir / "preprocess")
    command = [part.replace("/gcs/", f"{tmp_path}/gcs/") for part in container["command"]]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {each["name"]: each["value"] for each in container["env"]}
    subprocess.run(command, env=os.environ | {"PATH": path} | given, check=True)
    assert TrainedModel.load(mounted / "train").tower.dimension == 8


@pytest.mark.parametrize("url", ["s3://shop/run", "/tmp/run", "gs://"])
def test_a_folder_elsewhere_is_refused(tmp_path, url):
    done = job(tmp_path, trained=url)
    assert done.exit_code == 2
    assert "gs://bucket/folder" in " ".join(done.output.replace("│", " ").split())
