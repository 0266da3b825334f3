"""Deploying, by the real client, to a stub of Kubeflow's API."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import kfp_pipeline
from pipeline.__main__ import app
from pipeline.kfp_pipeline import STEPS_AND_REPORT, compile_pipeline
from tests.support.kubeflow import FakeKubeflow, kubeflow


@pytest.fixture
def cluster():
    with kubeflow() as fake:
        yield fake


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Compiling takes most of a second; what comes of it is the same each time."""
    monkeypatch.setattr(kfp_pipeline, "compile_pipeline", compile_again)


@cache
def compiled(
    images: tuple[tuple[str, str], ...], volumes: tuple[tuple[str, str], ...]
) -> tuple[str, dict[str, str]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "workflow.yaml"
        types = compile_pipeline(dict(images), str(path), dict(volumes))
        return path.read_text(), types


def compile_again(images: dict[str, str], path: str, volumes: dict[str, str]) -> dict[str, str]:
    text, types = compiled(tuple(images.items()), tuple(volumes.items()))
    Path(path).write_text(text)
    return types


def deploy(cluster: FakeKubeflow, *more: str, image: str = "image:1"):
    command = ["deploy", "--host", cluster.url, "--image", image]
    if "--store" not in more:
        command += ["--store", "s3://shop/releases"]
    if not any("bigquery=" in each for each in more):
        command += ["--parameter", "events=/mnt/logs"]
    return CliRunner().invoke(app, [*command, *more])


def test_everything_is_made_once(cluster):
    done = deploy(cluster, "--parameter", "window_days=30", "--time-zone", "Asia/Seoul")
    assert done.exit_code == 0, done.output
    assert "every day at 06:00, 18:00 Asia/Seoul (cron in UTC: 0 0 9,21 * * *)" in done.stdout
    (pipeline,), (experiment,) = cluster.pipelines, cluster.experiments
    (run,) = cluster.recurring_runs
    assert run.experiment_id == experiment.experiment_id
    assert run.trigger.cron_schedule.cron == "0 0 9,21 * * *"
    assert run.description == "every day at 06:00, 18:00 Asia/Seoul"
    assert run.runtime_config.parameters == {
        "store": "s3://shop/releases", "events": "/mnt/logs", "window_days": 30,
    }  # fmt: skip
    assert (run.max_concurrency, run.no_catchup, run.status) == ("1", True, "ENABLED")
    reference = run.pipeline_version_reference
    assert reference.pipeline_id == pipeline.pipeline_id
    package = cluster.packages[reference.pipeline_version_id]
    assert next(yaml.safe_load_all(package))["pipelineInfo"]["name"] == pipeline.display_name


def test_a_second_time_changes_nothing(cluster):
    assert deploy(cluster).exit_code == 0
    asked = list(cluster.asked)
    again = deploy(cluster)
    assert (again.exit_code, cluster.asked) == (0, asked)
    assert "as it was" in again.stdout


@pytest.mark.parametrize(
    ("changed", "uploads"),
    [
        ({"image": "image:2"}, 1),
        ({"more": ("--parameter", "seed=2")}, 0),
        ({"more": ("--at", "07:00")}, 0),
        ({"more": ("--service-account", "learner")}, 0),
        ({"more": ("--volume", "logs=/mnt/logs")}, 1),
    ],
    ids=["another image", "another parameter", "another time", "another account", "a volume"],
)
def test_the_run_before_goes_once_the_new_one_is_there(cluster, changed, uploads):
    assert deploy(cluster).exit_code == 0
    (old,) = cluster.recurring_runs
    cluster.asked.clear()
    assert deploy(cluster, *changed.pop("more", ()), **changed).exit_code == 0
    (new,) = cluster.recurring_runs
    assert new.recurring_run_id != old.recurring_run_id
    assert cluster.asked == [
        *["POST /pipelines/upload_version"] * uploads,
        "POST /recurringruns",
        f"POST /recurringruns/{old.recurring_run_id}:disable",
        f"DELETE /recurringruns/{old.recurring_run_id}",
    ]


@pytest.mark.parametrize(
    "where",
    ["POST /pipelines/upload$", "upload_version", "POST /experiments", "POST /recurringruns$",
     ":disable", "DELETE"],
)  # fmt: skip
def test_what_was_interrupted_is_gone_on_with(cluster, where):
    if where in {":disable", "DELETE"}:
        assert deploy(cluster, image="image:0").exit_code == 0
    cluster.fail_at = where
    failed = deploy(cluster)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == (
        "deploy: Kubeflow answers 500: the database went away"
    )
    if where in {":disable", "DELETE"}:
        assert any(run.status == "ENABLED" for run in cluster.recurring_runs)
    assert deploy(cluster).exit_code == 0
    assert [len(cluster.pipelines), len(cluster.experiments)] == [1, 1]
    (run,) = cluster.recurring_runs
    assert run.status == "ENABLED"
    assert "as it was" in deploy(cluster).stdout


def test_what_others_made_there_is_left_alone(cluster):
    assert deploy(cluster).exit_code == 0
    (ours,) = cluster.recurring_runs
    theirs = [type(ours)(**vars_of(ours, f"report {n}", str(n))) for n in range(4)]
    theirs.append(type(ours)(**vars_of(ours, "recsys-workflow-weekly", "5")))
    cluster.recurring_runs[:0] = theirs  # ours is on the third page
    assert deploy(cluster, "--parameter", "seed=2").exit_code == 0
    assert cluster.recurring_runs[:5] == theirs
    assert len(cluster.recurring_runs) == 6


def test_each_store_has_a_run_of_its_own(cluster):
    assert deploy(cluster).exit_code == 0
    assert deploy(cluster, "--store", "s3://flea-market/releases").exit_code == 0
    assert len(cluster.recurring_runs) == 2
    assert "as it was" in deploy(cluster).stdout


def test_in_another_experiment_the_run_of_the_one_before_ends(cluster):
    assert deploy(cluster).exit_code == 0
    (old,) = cluster.recurring_runs
    assert deploy(cluster, "--experiment", "new").exit_code == 0
    (new,) = cluster.recurring_runs
    assert (new.display_name, new.status) == (old.display_name, "ENABLED")
    assert new.experiment_id != old.experiment_id


def test_pods_have_the_account_and_the_volume(cluster):
    given = ("--service-account", "learner", "--volume", "logs=/mnt/logs")
    assert deploy(cluster, *given).exit_code == 0
    (run,) = cluster.recurring_runs
    assert run.service_account == "learner"
    package = cluster.packages[run.pipeline_version_reference.pipeline_version_id]
    _, platform = yaml.safe_load_all(package)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(STEPS_AND_REPORT)
    for each in executors.values():
        (mount,) = each["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("logs", "/mnt/logs")


@pytest.mark.parametrize("given", ["logs", "=/mnt", "logs=mnt"])
def test_a_volume_is_a_claim_and_a_path(cluster, given):
    done = deploy(cluster, "--volume", given)
    assert done.exit_code == 2
    assert "CLAIM=PATH" in done.output
    assert cluster.asked == []


def vars_of(run, name, run_id):
    names = run.openapi_types
    return {each: getattr(run, each) for each in names} | {
        "display_name": name, "recurring_run_id": run_id,
    }  # fmt: skip


def test_parameters_may_come_from_a_file(cluster, tmp_path: Path):
    bigquery = {"project": "p", "source": "d.e_*", "views": "d.v", "export_url": "gs://b/f"}
    (tmp_path / "bigquery.json").write_text(json.dumps(bigquery))
    assert deploy(cluster, "--parameter", f"bigquery=@{tmp_path}/bigquery.json").exit_code == 0
    (run,) = cluster.recurring_runs
    assert run.runtime_config.parameters["bigquery"] == bigquery


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("colour=red", "there is no colour"),
        ("seed=two", "must be Integer, written as JSON"),
        ("split=random", "split"),
        ('seed="2"', "must be Integer"),
        ("seed=true", "must be Integer"),
        ("dimension=0", "dimension: Input should be greater than or equal to 4"),
        ("release=7", "every run would publish the same one"),
        ("events=", "nothing to learn from"),
        ('bigquery={"project": "p"}', "bigquery.source: Field required"),
    ],
)
def test_a_parameter_is_judged_before_anything_is_sent(cluster, given, reason):
    done = deploy(cluster, "--parameter", given)
    assert done.exit_code == 2
    plain = " ".join(done.output.replace("│", " ").split())
    assert reason in plain
    assert cluster.asked == []


def test_a_host_that_is_not_there_is_one_line(cluster, monkeypatch):
    monkeypatch.setattr("kfp.client.client.time.sleep", lambda _seconds: None)
    gone = FakeKubeflow(url="http://127.0.0.1:9")
    done = deploy(gone)
    assert done.exit_code == 1
    assert "--host http://127.0.0.1:9 was not reached" in done.stderr.splitlines()[-1]
