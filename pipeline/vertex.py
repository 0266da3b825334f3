"""The training as a custom job of Vertex AI's, on one machine or on several."""

import json
import shlex
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import first_fault
from pipeline.options import RunOptions

__all__ = ["custom_job_spec", "vertex_job_command"]

_OPTIONS: Final = "RUN_OPTIONS"
_MOUNT: Final = PurePosixPath("/gcs")
"""Where Vertex AI mounts Cloud Storage in each container."""


def custom_job_spec(
    image: str,
    options: RunOptions,
    prepared: str,
    trained: str,
    *,
    machine_type: str,
    machines: int = 1,
) -> dict[str, Any]:
    """Describe the job as `CustomJobSpec`; the first pool is the chief, the second all others.

    `prepared`, `trained`: the folders of preprocess and train, `gs://…`. The job begins anew as a
    whole when one machine is lost, and then goes on from the last checkpoint in `trained`. Raises
    ValueError for folders elsewhere.
    """
    arguments = [
        "python", "-m", "pipeline", "step", "train", "--options", "-",
        "--input", f"preprocess={_mounted(prepared)}", "--output", _mounted(trained),
    ]  # fmt: skip
    container = {
        "imageUri": image,
        "command": ["sh", "-c", f'printf %s "${_OPTIONS}" | {shlex.join(arguments)}'],
        "env": [{"name": _OPTIONS, "value": TypeAdapter(RunOptions).dump_json(options).decode()}],
    }
    pools = [
        {
            "machineSpec": {"machineType": machine_type},
            "replicaCount": count,
            "containerSpec": container,
        }
        for count in (1, machines - 1)
        if count
    ]
    return {"workerPoolSpecs": pools, "scheduling": {"restartJobOnWorkerRestart": True}}


def vertex_job_command(
    image: Annotated[str, typer.Option(help="Has this package")],
    options: Annotated[typer.FileText, typer.Option(help="options.json of a run's workdir")],
    prepared: Annotated[str, typer.Option(help="The folder of preprocess, gs://…")],
    trained: Annotated[str, typer.Option(help="The folder that train writes, gs://…")],
    machine_type: Annotated[str, typer.Option(help="Of each machine")] = "n2-standard-8",
    machines: Annotated[int, typer.Option(min=1, help="That train one model")] = 1,
) -> None:
    """Write the training as a job of Vertex AI's, for `gcloud ai custom-jobs create --config`."""
    try:
        spec = custom_job_spec(
            image,
            TypeAdapter(RunOptions).validate_json(options.read()),
            prepared,
            trained,
            machine_type=machine_type,
            machines=machines,
        )
    except ValidationError as cause:
        raise typer.BadParameter(f"--options: {first_fault(cause)}") from None
    except ValueError as cause:
        raise typer.BadParameter(str(cause)) from None
    print(json.dumps(spec, indent=1))  # which is YAML too


def _mounted(url: str) -> str:
    scheme, _, path = url.partition("://")
    if scheme != "gs" or not path.strip("/"):
        raise ValueError(f"{url} is no folder of Cloud Storage; give gs://bucket/folder")
    return str(_MOUNT / path)
