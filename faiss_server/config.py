"""Settings of the faiss server."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from service_runtime.settings import Port, ServerSettings

__all__ = ["FaissServerSettings"]


class FaissServerSettings(ServerSettings):
    """Read from `FAISS_SERVER_*`."""

    model_config = SettingsConfigDict(env_prefix="FAISS_SERVER_")

    port: Port = Field(default=50052, description="gRPC port; 0 takes a free one.")
    metrics_port: Port = Field(default=9102, description="Prometheus port; 0 takes a free one.")
    store: Annotated[str, Field(min_length=1)] = Field(
        description="Where releases are published: a directory or any fsspec URL."
    )
    local_dir: Path = Field(description="Directory that keeps the newest two releases' indexes.")
    poll_seconds: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="How often the store is asked for new and withdrawn releases."
    )
    stagger_seconds: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="A new release is fetched after a random part of this: replicas take turns.",
    )
    report_serving: bool = Field(
        default=True,
        description="Whether to tell the store, below serving/, what is held and answered from.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis in which articles are taken down; default: none are.",
    )
    redis_credentials_file: Path | None = Field(
        default=None,
        description="user:password in one line, for each new connection; then none in the URL.",
    )
    redis_cluster: bool = Field(
        default=False, description="Whether the URL is that of a node of a Redis Cluster."
    )
    recall_sample_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.001,
        description="Share of the searches that are repeated exactly to measure recall; 0: none.",
    )
    search_threads: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        description="Searches at the same time; default: the cores of this process.",
    )
