"""All that one would click on Kubeflow's page: the version, the experiment, the recurring run."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kfp
from kfp_server_api import ApiException, V2beta1PipelineVersion, V2beta1RecurringRun
from urllib3.exceptions import HTTPError

from pipeline.errors import PipelineError
from pipeline.kfp_pipeline import PIPELINE_NAME

__all__ = ["Deployed", "Deployment", "deploy"]

_PAGE: Final = 100
_OURS: Final = re.compile(rf"{PIPELINE_NAME}-[0-9a-f]{{12}}")
_ENABLED: Final = "ENABLED"


@dataclass(frozen=True)
class Deployment:
    """What shall run, and when."""

    package: Path
    """The compiled pipeline (IR YAML)."""
    parameters: Mapping[str, Any]
    cron: str
    """Six fields, in UTC."""
    schedule: str
    """The same for people, with its time zone."""
    experiment: str = PIPELINE_NAME
    pipeline_root: str | None = None
    """Where artifacts are kept; None: where Kubeflow is set up to."""
    service_account: str | None = None
    """Of the pods; None: the one that Kubeflow is set up with."""

    @property
    def version(self) -> str:
        """Name the version after its content: the same pipeline is not uploaded twice."""
        digest = hashlib.sha256(self.package.read_bytes()).hexdigest()
        return f"{PIPELINE_NAME}-{digest[:12]}"

    @property
    def run_name(self) -> str:
        """Name the recurring run after all that shapes it."""
        content = [
            self.version,
            dict(self.parameters),
            self.cron,
            self.pipeline_root,
            self.service_account,
        ]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{PIPELINE_NAME}-{digest[:12]}"


@dataclass(frozen=True)
class Deployed:
    """What is there now, and whether anything had to be done."""

    version: str
    recurring_run: str
    changes: tuple[str, ...]


def deploy(
    client: kfp.Client,
    deployment: Deployment,
    tell: Callable[[str], None] = lambda _line: None,
) -> Deployed:
    """Bring Kubeflow to what `deployment` says; a second call finds everything there.

    The recurring run before it is stopped and deleted once the new one exists: an interruption
    leaves two rather than none, and the next call tidies up. Raises PipelineError.
    """
    changes: list[str] = []

    def note(change: str) -> None:
        changes.append(change)
        tell(change)

    try:
        version = _version(client, deployment, note)
        experiment = _experiment(client, deployment, note)
        _recurring_run(client, deployment, version, experiment, note)
    except ApiException as cause:
        raise PipelineError(_told(cause)) from cause
    except (HTTPError, OSError) as cause:
        raise PipelineError(f"Kubeflow was not reached: {cause}") from cause
    return Deployed(deployment.version, deployment.run_name, tuple(changes))


def _version(
    client: kfp.Client, deployment: Deployment, note: Callable[[str], None]
) -> V2beta1PipelineVersion:
    pipeline_id = client.get_pipeline_id(PIPELINE_NAME)
    if pipeline_id is None:
        note(f"pipeline {PIPELINE_NAME} created")
        pipeline_id = client.upload_pipeline(str(deployment.package), PIPELINE_NAME).pipeline_id
    for version in _all(client.list_pipeline_versions, "pipeline_versions", pipeline_id):
        if version.display_name == deployment.version:
            return version
    note(f"version {deployment.version} uploaded")
    return client.upload_pipeline_version(
        str(deployment.package), deployment.version, pipeline_id=pipeline_id
    )


def _experiment(client: kfp.Client, deployment: Deployment, note: Callable[[str], None]) -> str:
    try:
        found = client.get_experiment(experiment_name=deployment.experiment)
    except ValueError:  # kfp's way to say that there is none
        note(f"experiment {deployment.experiment} created")
        found = client.create_experiment(deployment.experiment)
    return str(found.experiment_id)


def _recurring_run(
    client: kfp.Client,
    deployment: Deployment,
    version: V2beta1PipelineVersion,
    experiment: str,
    note: Callable[[str], None],
) -> None:
    # Of all experiments: with a new --experiment the run in the one before must not go on.
    there = {"namespace": client.get_user_namespace() or None}
    ours = [
        run
        for run in _all(client.list_recurring_runs, "recurring_runs", **there)
        if _OURS.fullmatch(run.display_name)
        and run.runtime_config.parameters.get("store") == deployment.parameters["store"]
    ]
    wanted = [run for run in ours if _is(run, deployment) and run.experiment_id == experiment]
    if not wanted:
        note(f"recurring run {deployment.run_name} created: {deployment.schedule}")
        client.create_recurring_run(
            experiment,
            deployment.run_name,
            description=deployment.schedule,
            cron_expression=deployment.cron,
            max_concurrency=1,
            no_catchup=True,  # a run reads all that came since the last one anyway
            params=dict(deployment.parameters),
            pipeline_id=version.pipeline_id,
            version_id=version.pipeline_version_id,
            pipeline_root=deployment.pipeline_root,
            service_account=deployment.service_account,
        )
    for run in ours:
        if run not in wanted[:1]:
            note(f"recurring run {run.display_name} stopped and deleted")
            client.disable_recurring_run(run.recurring_run_id)
            client.delete_recurring_run(run.recurring_run_id)


def _is(run: V2beta1RecurringRun, deployment: Deployment) -> bool:
    return bool(run.display_name == deployment.run_name and run.status == _ENABLED)


def _all(
    list_page: Callable[..., Any], field: str, *args: str, **names: str | None
) -> Iterator[Any]:
    """Read every page of a listing."""
    token = ""
    while True:
        page = list_page(*args, page_token=token, page_size=_PAGE, **names)
        yield from getattr(page, field) or []
        token = page.next_page_token or ""
        if not token:
            return


def _told(cause: ApiException) -> str:
    try:
        message = json.loads(cause.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = cause.reason
    return f"Kubeflow answers {cause.status}: {message}"
