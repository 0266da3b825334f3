"""`python -m pipeline compile` and `deploy`."""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import ValidationError

from pipeline.errors import PipelineError, first_fault
from pipeline.kubeflow.parameters import run_options
from pipeline.kubeflow.schedule import cron_in_utc

if TYPE_CHECKING:
    import kfp

__all__ = ["compile_command", "deploy_command", "local_runner"]

_Image = Annotated[str, typer.Option(help="The container image of all tasks")]
_StepImages = Annotated[
    list[str] | None, typer.Option("--step-image", help="STEP=IMAGE, for one task")
]
_Volumes = Annotated[
    list[str] | None,
    typer.Option("--volume", help="CLAIM=PATH: a persistent volume claim, where all tasks see it"),
]


def compile_command(
    image: _Image,
    out: Annotated[Path, typer.Option(help="The file to write, IR YAML")],
    step_images: _StepImages = None,
    volumes: _Volumes = None,
) -> None:
    """Write the workflow as Kubeflow Pipelines takes it."""
    with _one_line("compile"):
        _compile(image, step_images or [], volumes or [], out)


def deploy_command(  # noqa: PLR0913, PLR0917 - one parameter for each option
    host: Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Of Kubeflow's API")],
    image: _Image,
    store: Annotated[str, typer.Option(envvar="RELEASES_STORE", help="The serving store")],
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="NAME=VALUE, or NAME=@FILE; JSON for lists and objects"),
    ] = None,
    step_images: _StepImages = None,
    volumes: _Volumes = None,
    service_account: Annotated[
        str | None, typer.Option(help="Of the pods; default: as Kubeflow is set up")
    ] = None,
    at: Annotated[
        list[datetime] | None,
        typer.Option(formats=["%H:%M"], help="Time of day; default: 06:00 and 18:00"),
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Of --at, such as Asia/Seoul")] = "UTC",
    experiment: Annotated[str | None, typer.Option(help="Default: the pipeline's name")] = None,
    pipeline_root: Annotated[
        str | None, typer.Option(help="Where artifacts are kept; default: as Kubeflow is set up")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Of several users' Kubeflow")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="KFP_TOKEN", help="Bearer token, where one is asked for")
    ] = None,
) -> None:
    """Upload the workflow and let it run twice a day; a second time changes nothing."""
    with _one_line("deploy"), tempfile.TemporaryDirectory() as directory:
        with _needing_kfp():
            from pipeline.kubeflow.deploy import Deployment, deploy

        times = [each.time() for each in at or (datetime(1900, 1, 1, 6), datetime(1900, 1, 1, 18))]  # noqa: DTZ001
        package = Path(directory) / "workflow.yaml"
        known = _compile(image, step_images or [], volumes or [], package)
        spoken = ", ".join(f"{each:%H:%M}" for each in sorted(times))
        deployment = Deployment(
            package,
            _parameters([f"store={store}", *(parameters or [])], known),
            cron=cron_in_utc(times, time_zone),
            schedule=f"every day at {spoken} {time_zone}",
            **({} if experiment is None else {"experiment": experiment}),
            pipeline_root=pipeline_root,
            service_account=service_account,
        )
        # The client prints links for notebooks; the lines of `tell` are ours.
        with redirect_stdout(sys.stderr):
            client = _client(host, namespace, token)
            deployed = deploy(client, deployment, lambda line: print(line, file=sys.stderr))
    done = "as it was" if not deployed.changes else "deployed"
    print(
        f"{deployed.recurring_run} {done}: {deployment.schedule} (cron in UTC: {deployment.cron})"
    )


def local_runner() -> Any:
    """Load kfp and answer `pipeline.kubeflow.local.run_locally`. Raises BadParameter without it."""
    with _needing_kfp():
        from pipeline.kubeflow.local import run_locally

    return run_locally


def _compile(
    image: str, step_images: Sequence[str], volumes: Sequence[str], out: Path
) -> dict[str, str]:
    """Write the pipeline; answer its parameters with their types."""
    with _needing_kfp():
        from pipeline.kfp_pipeline import STEPS_AND_REPORT, compile_pipeline
    images = dict.fromkeys(STEPS_AND_REPORT, image)
    for each in step_images:
        step, _, its_image = each.partition("=")
        if step not in images or not its_image:
            raise typer.BadParameter(
                f"--step-image {each}: STEP=IMAGE, where STEP is one of {', '.join(images)}"
            )
        images[step] = its_image
    out.parent.mkdir(parents=True, exist_ok=True)
    return compile_pipeline(images, str(out), _mounts(volumes))


def _mounts(volumes: Sequence[str]) -> dict[str, str]:
    mounts = {}
    for each in volumes:
        claim, _, path = each.partition("=")
        if not claim or not path.startswith("/"):
            raise typer.BadParameter(f"--volume {each}: CLAIM=PATH, such as logs=/mnt/logs")
        mounts[claim] = path
    return mounts


_JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "Integer": (int,),
    "Float": (int, float),
    "Boolean": (bool,),
    "List": (list,),
    "Dict": (dict,),
}
"""What Kubeflow takes for its own types, by what stands before a bracket."""


def _parameters(given: Sequence[str], known: Mapping[str, str]) -> dict[str, Any]:
    """Read NAME=VALUE by the pipeline's types, now rather than at six in the morning."""
    found: dict[str, Any] = {}
    for each in given:
        name, _, text = each.partition("=")
        if name not in known:
            raise typer.BadParameter(
                f"--parameter {each}: there is no {name}; there are {', '.join(sorted(known))}"
            )
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        found[name] = _value(each, text, known[name])
    options = {name: value for name, value in found.items() if name != "notify_url"}
    try:
        run_options(**options)
    except ValidationError as cause:
        raise typer.BadParameter(f"--parameter: {first_fault(cause)}") from None
    if not (found.get("events") or found.get("bigquery")):
        raise typer.BadParameter(
            "--parameter: nothing to learn from; bigquery=@FILE, or events=FOLDER on a --volume"
        )
    if found.get("release"):
        raise typer.BadParameter(
            "--parameter release: every run would publish the same one; leave it out"
        )
    return found


def _value(given: str, text: str, kind: str) -> Any:
    if kind == "String":
        return text
    types = _JSON_TYPES[kind.partition("[")[0]]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise typer.BadParameter(f"--parameter {given}: must be {kind}, written as JSON")
    return value


def _client(host: str, namespace: str | None, token: str | None) -> "kfp.Client":
    import kfp
    from urllib3.exceptions import HTTPError

    names = {} if namespace is None else {"namespace": namespace}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it speaks to Kubeflow 2 only
            return kfp.Client(host, existing_token=token, **names)
    except (HTTPError, OSError) as cause:
        raise PipelineError(f"--host {host} was not reached: {cause}") from cause


@contextmanager
def _one_line(command: str) -> Iterator[None]:
    try:
        yield
    except (PipelineError, OSError) as error:
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None


@contextmanager
def _needing_kfp() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in {"kfp", "kfp_server_api"}:
            raise
        raise typer.BadParameter(
            "this needs Kubeflow's SDK: pip install 'recsys-serving[kubeflow]'"
        ) from None
