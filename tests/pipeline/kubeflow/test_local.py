"""The very pipeline, by kfp's own runner: each task a process."""

import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Self

import pytest

from pipeline.errors import StepError
from pipeline.gate import Decision
from pipeline.kubeflow import local, task
from pipeline.options import GateOptions, PreprocessOptions, RunOptions, TrainOptions
from pipeline.report import report_run
from pipeline.steps import REQUIRES, STEPS
from pipeline.workdir import lock_workdir
from releases.store import ReleaseStore
from releases.verify import verify
from tests.pipeline.conftest import RELEASE


def options_of(tiny_run, store) -> RunOptions:
    """Those of the tiny run, into another store."""
    return RunOptions(
        events=tiny_run.events,
        items=str(tiny_run.events.with_name("items.csv")),
        store=str(store),
        release=RELEASE,
        preprocess=PreprocessOptions(split="last-view"),
        train=TrainOptions(
            dimension=16, hidden_units=(32,), learning_rate=1e-2, batch_size=32, max_epochs=10
        ),
    )


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # of kfp and what it loads
def test_it_publishes_a_release_of_the_same_metrics(tiny_run, tmp_path, capfd):
    result = local.run_locally(options_of(tiny_run, tmp_path / "store"), tmp_path / "work")
    theirs, ours = tiny_run.result.manifest, result.manifest
    assert verify(ReleaseStore(str(tmp_path / "store")), RELEASE) == ours
    assert ours.vocabulary_sha256 == theirs.vocabulary_sha256
    assert ours.data == theirs.data
    assert ours.offline_metrics == pytest.approx(theirs.offline_metrics, abs=0.002)
    assert set(result.seconds) == set(STEPS)
    assert report_run(result, 1.0).holds
    out = capfd.readouterr().out
    assert out == ""  # kfp's log is on stderr: stdout is the report's

    root = next((tmp_path / "work" / "kfp").iterdir())
    metadata = artifacts(root / "gate" / "executor_output.json")
    assert metadata["checks"]["accepted"] == 1
    hits = result.evaluation.hits
    rows = [row["row"] for row in metadata["hits"]["confusionMatrix"]["rows"]]
    assert rows == [[hits.both, hits.popularity_only], [hits.model_only, hits.neither]]
    assert sum(map(sum, rows)) == result.evaluation.user_count
    logged = artifacts(root / "evaluate" / "executor_output.json")["metrics"]
    assert logged == ours.offline_metrics
    assert "Title 10" in (root / "index" / "samples").read_text()
    assert "Title 10" in (root / "index" / "samples_text").read_text()
    (viewer,) = json.loads((root / "train" / "mlpipeline_ui_metadata").read_text())["outputs"]
    assert viewer["type"] == "tensorboard"
    assert list(Path(viewer["source"]).glob("events.out.tfevents.*"))
    assert "SUCCEEDED" in (root / "report" / "summary").read_text()
    assert not (root / "train" / "trained" / "checkpoints").exists()


def test_a_spec_that_the_vectors_do_not_fit_is_refused_before_any_task(tiny_run, tmp_path):
    options = replace(options_of(tiny_run, tmp_path / "store"), index_spec="IVF4,PQ7")
    with pytest.raises(StepError, match=r"^index: spec 'IVF4,PQ7': .* multiple"):
        local.run_locally(options, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(tiny_run, tmp_path):
    workdir = tmp_path / "work"
    kept = workdir / "kfp" / "of-the-other-run"
    kept.mkdir(parents=True)
    with lock_workdir(workdir), pytest.raises(StepError, match=r"^window: .* another run is at"):
        local.run_locally(options_of(tiny_run, tmp_path / "store"), workdir)
    assert kept.exists()


def artifacts(path: Path) -> dict[str, dict]:
    found = json.loads(path.read_text())["artifacts"]
    return {name: each["artifacts"][0]["metadata"] for name, each in found.items()}


@pytest.mark.filterwarnings("ignore")  # of kfp and what it loads
def test_a_task_that_fails_is_named_with_its_cause(tiny_run, tmp_path):
    options = replace(options_of(tiny_run, tmp_path / "store"), events=tmp_path / "none.csv")
    with pytest.raises(StepError, match=r"^collect: .*none\.csv: no such file"):
        local.run_locally(options, tmp_path / "work")
    assert not (tmp_path / "store").exists()
    root = next((tmp_path / "work" / "kfp").iterdir())
    assert "FAILED" in (root / "report" / "summary").read_text()


def lay_out(tiny_run, root: Path, gate: Path) -> None:
    """What the runner leaves of a run whose publishing was refused."""
    for step in [*REQUIRES][:-1]:
        folder = gate if step == "gate" else tiny_run.workdir / step
        place = root / "run" / step
        place.mkdir(parents=True)
        (place / local._OUTPUT_OF[step]).symlink_to(folder)


def test_a_refusal_is_a_result_and_no_failure(tiny_run, tmp_path, monkeypatch):
    refused = tmp_path / "gate"
    refused.mkdir()
    old = GateOptions(max_age_hours=1.0)
    parameters = {"store": str(tmp_path / "store"), "max_age_hours": old.max_age_hours}
    inputs = {step: str(tiny_run.workdir / step) for step in REQUIRES["gate"]}
    task.run_task("gate", inputs, str(refused), **parameters)

    def run(_parameters, root, _log):
        lay_out(tiny_run, root, refused)
        inputs = {step: str(tiny_run.workdir / step) for step in REQUIRES["publish"]}
        inputs["gate"] = str(refused)
        with pytest.raises(SystemExit, match=r"^publish: the gate refused this release: age of"):
            task.run_task("publish", inputs, str(root / "publish"), **parameters)
        return RuntimeError("Inner task failed: publish")

    monkeypatch.setattr(local, "_run", run)
    result = local.run_locally(options_of(tiny_run, tmp_path / "store"), tmp_path / "work")
    assert result.manifest is None
    assert result.decision.reasons == Decision.load(refused).reasons != ()


class Hook:
    """A web hook that remembers what it was told."""

    def __init__(self, status: int) -> None:
        told: list[dict] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments): ...

        self.told = told
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


FAILED = SimpleNamespace(
    state="FAILED", pipeline_job_resource_name="run-7", error_message="publish: refused"
)


def test_the_end_of_a_run_is_told(tiny_run, tmp_path, capsys):
    with Hook(200) as hook:
        task.report_end(FAILED, str(tiny_run.store), hook.url, str(tmp_path / "summary"))
    (told,) = hook.told
    assert told["text"].startswith("Run run-7 of the workflow: FAILED. publish: refused")
    assert told["newest_release"] == RELEASE
    assert json.loads(capsys.readouterr().out)["state"] == "FAILED"
    assert "| error | publish: refused |" in (tmp_path / "summary").read_text()


def test_an_end_that_nobody_could_be_told_fails(tiny_run, tmp_path):
    with Hook(500) as hook, pytest.raises(SystemExit, match=r"^report: .* was not told: .*500"):
        task.report_end(FAILED, str(tiny_run.store), hook.url, str(tmp_path / "summary"))


@pytest.mark.parametrize("url", ["hooks.example/none", "http://127.0.0.1:9/nobody"])
def test_a_hook_that_is_none_is_told(tiny_run, tmp_path, url):
    with pytest.raises(SystemExit, match=rf"^report: {url} was not told: "):
        task.report_end(FAILED, str(tiny_run.store), url, str(tmp_path / "summary"))


@pytest.mark.parametrize(
    ("state", "succeeded", "error"),
    [("SUCCEEDED", True, ""), ("RUNNING", False, "see the log of the task in red")],
)
def test_only_success_is_success(tiny_run, tmp_path, capsys, state, succeeded, error):
    status = SimpleNamespace(state=state, pipeline_job_resource_name="run-7", error_message=None)
    task.report_end(status, str(tiny_run.store), "", str(tmp_path / "summary"))
    told = json.loads(capsys.readouterr().out)
    assert told["succeeded"] is succeeded
    assert error in told["error"]


@pytest.mark.parametrize(
    ("uri", "source"),
    [("minio://mlpipeline/a/b", "s3://mlpipeline/a/b/logs"), ("gs://x/y/", "gs://x/y/logs")],
)
def test_tensorboard_is_given_a_place_that_it_can_read(tmp_path, uri, source):
    task.link_tensorboard(uri, str(tmp_path / "metadata"))
    (viewer,) = json.loads((tmp_path / "metadata").read_text())["outputs"]
    assert viewer == {"type": "tensorboard", "source": source}


def test_a_store_that_is_out_of_reach_is_told_too(tmp_path, capsys):
    (tmp_path / "store").write_text("a file")
    task.report_end(FAILED, str(tmp_path / "store"), "", str(tmp_path / "summary"))
    assert "newest_release" in capsys.readouterr().out
