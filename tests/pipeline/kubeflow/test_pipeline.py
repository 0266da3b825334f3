"""The compiled pipeline: the steps, who waits for whom, and what each task is given."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.kfp_pipeline import STEPS_AND_REPORT, compile_pipeline
from pipeline.kubeflow.parameters import parameters_of
from pipeline.options import RunOptions
from pipeline.steps import REQUIRES, STEPS

IMAGES = {step: f"registry/{step}:1" for step in STEPS_AND_REPORT}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    out = tmp_path_factory.mktemp("compiled") / "workflow.yaml"
    types = compile_pipeline(IMAGES, str(out))
    document, *_ = yaml.safe_load_all(out.read_text())
    return document, types


@pytest.fixture(scope="module")
def steps(compiled):
    document, _ = compiled
    return document["components"]["comp-exit-handler-1"]["dag"]["tasks"]


@pytest.fixture(scope="module")
def executors(compiled):
    document, _ = compiled
    return document["deploymentSpec"]["executors"]


def test_the_tasks_are_the_steps_and_wait_as_they_do(steps):
    waits = {step: set(task.get("dependentTasks", ())) for step, task in steps.items()}
    assert waits == {step: set(requires) for step, requires in REQUIRES.items()}


def test_the_report_comes_last_whatever_happens(compiled):
    document, _ = compiled
    report = document["root"]["dag"]["tasks"]["report"]
    assert report["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert "taskFinalStatus" in report["inputs"]["parameters"]["status"]


def test_nothing_is_taken_from_another_run(steps):
    assert [task["cachingOptions"] for task in steps.values()] == [{}] * len(STEPS)


def test_each_task_has_its_image_resources_and_retries(steps, executors):
    for step in STEPS:
        container = executors[f"exec-{step}"]["container"]
        assert container["image"] == IMAGES[step]
        assert container["resources"].keys() >= {"resourceCpuLimit", "resourceMemoryLimit"}
        assert steps[step]["retryPolicy"]["maxRetryCount"] >= 1
    assert steps["copy"]["retryPolicy"]["maxRetryCount"] == 5


def test_no_task_installs_anything(executors):
    for executor in executors.values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_the_parameters_have_types_and_are_those_of_a_run(compiled):
    document, types = compiled
    parameters = document["root"]["inputDefinitions"]["parameters"]
    known = parameters_of(RunOptions(events=None, items=None, store="store"))
    assert set(parameters) == {*known, "notify_url"} == set(types)
    kinds = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}
    kinds |= {dict: "STRUCT", list: "LIST"}
    for name, value in known.items():
        assert parameters[name]["parameterType"] == kinds[type(value)], name
        if name != "store":
            assert parameters[name]["defaultValue"] == value, name


def test_the_docs_tell_every_parameter_and_its_default(compiled):
    document, _ = compiled
    parameters = document["root"]["inputDefinitions"]["parameters"]
    _, _, text = Path("docs/kubeflow.md").read_text().partition("\n## Parameters\n")
    section, _, _ = text.partition("\n## ")
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\| .+ \|$", section, re.MULTILINE)
    told = {name: json.loads(default) if default else None for name, default in rows}
    assert len(rows) == len(told)
    assert told == {name: each.get("defaultValue") for name, each in parameters.items()}


def test_what_people_look_at_are_artifacts_of_their_kinds(compiled):
    document, _ = compiled

    def outputs(step):
        artifacts = document["components"][f"comp-{step}"]["outputDefinitions"]["artifacts"]
        return {each["artifactType"]["schemaTitle"] for each in artifacts.values()}

    assert outputs("gate") >= {"system.Metrics", "system.ClassificationMetrics"}
    assert outputs("index") >= {"system.HTML", "system.Markdown"}
    assert outputs("evaluate") >= {"system.Metrics"}


def test_the_command_writes_the_file(tmp_path: Path):
    command = [sys.executable, "-m", "pipeline", "compile", "--out", str(tmp_path / "w.yaml")]
    command += ["--image", "all:1", "--step-image", "train=gpu:2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document, *_ = yaml.safe_load_all((tmp_path / "w.yaml").read_text())
    executors = document["deploymentSpec"]["executors"]
    images = {name: each["container"]["image"] for name, each in executors.items()}
    assert images.pop("exec-train") == "gpu:2"
    assert set(images.values()) == {"all:1"}
    # Byte for byte in another process: deploying names versions after their content.
    images = dict.fromkeys(STEPS_AND_REPORT, "all:1") | {"train": "gpu:2"}
    compile_pipeline(images, str(tmp_path / "here.yaml"))
    assert (tmp_path / "here.yaml").read_bytes() == (tmp_path / "w.yaml").read_bytes()


def test_an_image_for_no_step_is_refused(tmp_path: Path):
    command = ["compile", "--out", str(tmp_path / "w.yaml"), "--image", "all:1"]
    done = CliRunner().invoke(app, [*command, "--step-image", "serve=x:2"])
    assert done.exit_code == 2
    assert "serve=x:2: STEP=IMAGE" in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "w.yaml").exists()
