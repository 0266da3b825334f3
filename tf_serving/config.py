"""Settings of the stand-in server, and the model configuration file that they name."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from google.protobuf import text_format
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from recsys.tfserving.v1 import model_server_config_pb2 as pb

from service_runtime.errors import StartupError
from service_runtime.settings import Port, ServerSettings
from tf_serving.versions import All, Latest, Specific, VersionPolicy

__all__ = ["ModelConfig", "TfServingSettings", "read_model_config"]

_SETTING = "TF_SERVING_MODEL_CONFIG_FILE"

Threads = Annotated[int, Field(ge=1)]


class TfServingSettings(ServerSettings):
    """Settings of the stand-in model server, from `TF_SERVING_*`."""

    model_config = SettingsConfigDict(env_prefix="TF_SERVING_")

    port: Port = Field(default=8500, description="gRPC port; 0 takes a free one.")
    metrics_port: Port = Field(default=9103, description="Prometheus port; 0 takes a free one.")
    model_config_file: Path = Field(
        description="ModelServerConfig as text, the same file that TensorFlow Serving reads."
    )
    poll_seconds: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="Time between two looks for new versions."
    )
    threads: Threads = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="Predict calls computed at once; default: the machine's cores.",
    )
    intra_op_threads: Threads = Field(
        default=1, description="Threads within one TensorFlow operation; calls are parallel anyway."
    )
    inter_op_threads: Threads = Field(
        default=1, description="Threads for independent TensorFlow operations."
    )


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve."""

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: dict[str, int] = field(default_factory=dict)


def read_model_config(path: Path) -> tuple[ModelConfig, ...]:
    """Read a file of TensorFlow Serving's ModelServerConfig.

    Fields that our copy of the message lacks are refused rather than ignored: a misspelt name would
    otherwise go unnoticed. Raises StartupError, naming file and line, or the model and its field.
    """
    try:
        message = text_format.Parse(path.read_text(), pb.ModelServerConfig())
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{_SETTING}: cannot read {path}: {error}") from None
    except text_format.ParseError as error:
        # The error's own text starts with line and column.
        raise StartupError(f"{_SETTING}: {path}:{error}") from None
    try:
        return _models_of(message)
    except ValueError as error:
        raise StartupError(f"{_SETTING}: {path}: {error}") from None


def _models_of(message: pb.ModelServerConfig) -> tuple[ModelConfig, ...]:
    models = tuple(_model_of(config) for config in message.model_config_list.config)
    if not models:
        raise ValueError("model_config_list has no config")
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"model {name} is listed {names.count(name)} times")
    return models


def _model_of(config: pb.ModelConfig) -> ModelConfig:
    if not config.name:
        raise ValueError("a config has no name")
    if not Path(config.base_path).is_absolute():
        raise ValueError(
            f"model {config.name}: base_path {config.base_path!r} is not an absolute path"
        )
    if config.model_platform != "tensorflow":
        raise ValueError(
            f"model {config.name}: model_platform is {config.model_platform!r}, "
            'only "tensorflow" can be served'
        )
    return ModelConfig(
        config.name,
        Path(config.base_path),
        _policy_of(config.model_version_policy),
        dict(config.version_labels),
    )


def _policy_of(policy: pb.ServableVersionPolicy) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(max(policy.latest.num_versions, 1))
