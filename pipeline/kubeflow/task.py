"""What runs inside a task on Kubeflow Pipelines: a step, and what its page shows of it."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.request import Request, urlopen

# Read when TensorFlow is imported, which steps do late.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pipeline.errors import StepError
from pipeline.evaluate import Evaluation
from pipeline.gate import Decision
from pipeline.index import IndexedArticles
from pipeline.kubeflow.parameters import run_options
from pipeline.samples import read_samples
from pipeline.samples_page import samples_html, samples_markdown
from pipeline.steps import naming, run_step
from releases.errors import ReleaseError
from releases.store import ReleaseStore

__all__ = [
    "ClassificationSink",
    "FinalStatus",
    "MetricsSink",
    "link_tensorboard",
    "remove_checkpoints",
    "report_end",
    "run_task",
    "show_classification",
    "show_decision",
    "show_evaluation",
    "show_samples",
]

_NOTIFY_SECONDS: Final = 10.0
_PROGRESS_SECONDS: Final = 10.0
_SUCCEEDED: Final = frozenset({"SUCCEEDED", "COMPLETE"})
_NO_ERROR_TEXT: Final = "Kubeflow tells no cause; see the log of the task in red."


class MetricsSink(Protocol):
    """KFP's Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number by a name."""


class ClassificationSink(Protocol):
    """KFP's ClassificationMetrics artifact."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Show counts, a row for each true category."""


class FinalStatus(Protocol):
    """KFP's PipelineTaskFinalStatus."""

    state: str
    pipeline_job_resource_name: str
    error_message: str | None


def run_task(
    step: str,
    inputs: Mapping[str, str],
    output: str,
    **parameters: Any,
) -> None:
    """Run a step from and into folders that Kubeflow names.

    Ends the process with 1 and `step: cause` on a line of its own where the step fails.
    """
    try:
        with naming(step):
            options = run_options(**parameters)
        folders = {name: Path(path) for name, path in inputs.items()}
        run_step(step, options, folders, Path(output), _logging_progress())
    except StepError as error:
        raise SystemExit(" ".join(str(error).split())) from None


def show_evaluation(folder: str, metrics: MetricsSink) -> None:
    """Put the metrics of model and baselines beside those of other runs."""
    for name, value in Evaluation.load(Path(folder)).offline_metrics().items():
        metrics.log_metric(name, value)


def show_decision(folder: str, metrics: MetricsSink) -> None:
    """Show what the gate looked at, and what it says."""
    decision = Decision.load(Path(folder))
    for check in decision.checks:
        metrics.log_metric(f"{check.name} (must be {check.must})", check.value)
    metrics.log_metric("accepted", float(decision.accepted))


def show_classification(folder: str, classification: ClassificationSink) -> None:
    """Show whose 200 best hold the users' next views; rows: popularity's, columns: the model's."""
    hits = Evaluation.load(Path(folder)).hits
    classification.log_confusion_matrix(
        ["hit", "miss"],
        [[hits.both, hits.popularity_only], [hits.model_only, hits.neither]],
    )


def show_samples(folder: str, html: str, markdown: str) -> None:
    """Write the pages of sample predictions."""
    samples = read_samples(IndexedArticles.load(Path(folder)).samples)
    Path(html).write_text(samples_html(samples))
    Path(markdown).write_text(samples_markdown(samples))


def remove_checkpoints(folder: str) -> None:
    """Leave them out of what is handed on: they are several times the weights."""
    shutil.rmtree(Path(folder) / "checkpoints")


def link_tensorboard(model_uri: str, path: str) -> None:
    """Tell Kubeflow's page where TensorBoard finds the logs of the training.

    MinIO's scheme is Kubeflow's own; TensorBoard knows the same place as S3.
    """
    uri = re.sub("^minio://", "s3://", model_uri.rstrip("/"))
    viewer = {"type": "tensorboard", "source": f"{uri}/logs"}
    Path(path).write_text(json.dumps({"outputs": [viewer]}))


def report_end(status: FinalStatus, store: str, notify_url: str, summary: str) -> None:
    """Say how a run ended: as a line of JSON in the log, as a page, and to `notify_url` if given.

    Only a state that says so is success: a pod that was killed may leave its task RUNNING. Ends
    the process with 1 when nobody could be told.
    """
    succeeded = status.state in _SUCCEEDED
    end = {
        "run": status.pipeline_job_resource_name,
        "succeeded": succeeded,
        "state": status.state,
        "error": "" if succeeded else status.error_message or _NO_ERROR_TEXT,
        "newest_release": _newest_release(store),
    }
    print(json.dumps(end))
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in end.items())
    Path(summary).write_text(f"| | |\n|---|---|\n{rows}\n")
    if not notify_url:
        return
    text = "Run {run} of the workflow: {state}. {error} Newest release: {newest_release}."
    body = json.dumps({"text": text.format(**end), **end}).encode()
    try:
        request = Request(notify_url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(request, timeout=_NOTIFY_SECONDS):  # noqa: S310 - the operator's own URL
            pass
    except (OSError, HTTPException, ValueError) as cause:
        raise SystemExit(f"report: {notify_url} was not told: {cause}") from None


def _newest_release(store: str) -> int | str | None:
    try:
        return max(ReleaseStore(store).usable(), default=None)
    except ReleaseError as cause:
        return f"unknown: {cause}"


def _logging_progress() -> Callable[[str, float, str], None]:
    """Log a line every few seconds: nobody sees a progress bar in a pod."""
    told_at = time.monotonic()

    def tell(step: str, share: float, message: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _PROGRESS_SECONDS:
            told_at = time.monotonic()
            print(f"[{step}] {share:.0%} {message}".rstrip(), flush=True)

    return tell
