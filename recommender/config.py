"""Settings of the recommender, `RECOMMENDER_*`."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from recommender.addresses import parse_targets
from service_runtime.settings import Port, Seconds, ServerSettings

__all__ = ["RecommenderSettings"]


class RecommenderSettings(ServerSettings):
    """Where the parts are, and how long things may take."""

    model_config = SettingsConfigDict(env_prefix="RECOMMENDER_")

    port: Port = Field(default=50051, description="gRPC port; 0 takes a free one.")
    metrics_port: Port = Field(default=9101, description="Prometheus port; 0 takes a free one.")
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// (with ?ssl_ca_certs=FILE) or unix://.",
    )
    redis_credentials_file: Path | None = Field(
        default=None,
        description="user:password in one line, for each new connection; then none in the URL.",
    )
    redis_cluster: bool = Field(
        default=False, description="Whether the URL is that of a node of a Redis Cluster."
    )
    history_ttl_seconds: Annotated[int, Field(ge=1)] = Field(
        default=90 * 24 * 3600,
        description="A history expires this long after the last RecordViews for it.",
    )
    model_servers: str = Field(
        default="127.0.0.1:8500",
        description="host:port of TF Serving; every address of the name is used. Comma-separated.",
    )
    model_name: str = Field(
        default="user_tower", description="The model's name in TF Serving's models.config."
    )
    faiss_servers: str = Field(
        default="127.0.0.1:50052",
        description="host:port of the faiss servers; every address is used. Comma-separated.",
    )
    backend_tls_ca_file: Path | None = Field(
        default=None,
        description="CA of the backends' certificates, PEM: they are spoken to by TLS only.",
    )
    backend_tls_cert_file: Path | None = Field(
        default=None, description="Certificate chain to show to backends that ask for one, PEM."
    )
    backend_tls_key_file: Path | None = Field(default=None, description="Its key, PEM.")
    backend_tls_name: str | None = Field(
        default=None,
        description="What their certificates are for; default: the first host of each list.",
    )
    dns_server: str | None = Field(
        default=None,
        description="ip:port of the DNS server to ask for A records; default: the machine's way.",
    )
    resolve_seconds: Seconds = Field(default=3.0, description="How often names are resolved anew.")
    poll_seconds: Seconds = Field(
        default=0.25,
        description="How often each address is asked what it holds, and told what is in use (3 s).",
    )
    max_batch: Annotated[int, Field(ge=1, le=256)] = Field(
        default=32,
        description="Callers whose questions go to a backend as one call when it is busy; 1: none.",
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Processes behind the port, one for each core; limits count in each of them.",
    )
    reserve_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2,
        description="Share of the caller's deadline kept back from backends for answering.",
    )

    @field_validator("model_servers", "faiss_servers", "dns_server")
    @classmethod
    def _targets_parse(cls, value: str | None) -> str | None:
        if value is not None:
            parse_targets(value)
        return value

    @field_validator("dns_server")
    @classmethod
    def _one_ip_address(cls, value: str | None) -> str | None:
        if value is not None:
            (server,) = parse_targets(value)
            ipaddress.ip_address(server.host)
        return value
