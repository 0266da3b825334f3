"""Settings of a server: read from the environment once, then never change."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.errors import StartupError

__all__ = [
    "SHARED",
    "Port",
    "Seconds",
    "ServerSettings",
    "SettingsT",
    "Transport",
    "default_text",
    "describe",
    "load_settings",
]

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Transport = Literal["asyncio", "grpcio"]
"""What gRPC is spoken by: `service_runtime.asyncio_grpc`, or the `grpcio` library's `grpc.aio`."""


class ServerSettings(BaseSettings):
    """What every server can be told. A subclass adds its own and sets `env_prefix`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on, gRPC and metrics.")
    port: Port = Field(description="gRPC port; 0 takes a free one.")
    metrics_port: Port = Field(description="Prometheus port; 0 takes a free one.")
    ready_file: Path | None = Field(
        default=None,
        description="Once listening, ports and pid are written here as JSON.",
    )
    tls_cert_file: Path | None = Field(
        default=None,
        description="Certificate chain, PEM: gRPC by TLS only. Read again when it is replaced.",
    )
    tls_key_file: Path | None = Field(default=None, description="Its key, PEM.")
    tls_client_ca_file: Path | None = Field(
        default=None,
        description="CA, PEM, that callers need a certificate of; default: any caller.",
    )
    grpc_transport: Transport = Field(
        default="asyncio",
        description="What speaks gRPC: asyncio, a third of the cost, or grpcio, the library's own.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Calls that succeed quickly are logged at DEBUG only."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="Form of the log lines on standard error."
    )
    slow_call_seconds: Seconds = Field(
        default=0.1, description="Calls slower than this are logged at INFO."
    )
    max_concurrent_calls: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="In flight per method at the most, fewer under overload; health checks: any.",
    )
    default_deadline_seconds: Seconds = Field(
        default=1.0, description="Time budget of a call whose caller set no deadline."
    )
    traces_endpoint: str | None = Field(
        default=None,
        description="OTLP collector (gRPC) for traces, as http://host:4317; default: no traces.",
    )
    traces_sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01,
        description="Share of calls to trace of those whose callers leave it open (recommender).",
    )
    cloudwatch_metrics_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=0.0,
        description="Calls in flight and refused are printed for CloudWatch this often; 0: never.",
    )
    cloudwatch_stack: str = Field(
        default="", description="Stack of this server, a dimension of those figures; default: none."
    )
    max_connection_age_seconds: Seconds = Field(
        default=300.0, description="Connections are renewed this often, so that load spreads anew."
    )
    drain_notice_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=1.0,
        description="After SIGTERM health is NOT_SERVING this long while calls are still taken.",
    )
    drain_seconds: Seconds = Field(
        default=10.0, description="How long calls in flight may go on after the notice."
    )

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        return value.strip("[]")

    def address(self, port: int) -> str:
        """Answer `host:port` to listen on, an IPv6 address in brackets."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def service_name(self) -> str:
        """Answer what this server is called by those who watch it, such as `faiss-server`."""
        return str(self.model_config.get("env_prefix")).strip("_").lower().replace("_", "-")


SettingsT = TypeVar("SettingsT", bound=ServerSettings)

SHARED: Final = frozenset(ServerSettings.model_fields)
"""The names of the settings that all servers have."""


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the environment.

    Raises StartupError with the variable's name when a value is missing, malformed or misspelt.
    """
    prefix = str(kind.model_config.get("env_prefix"))
    _refuse_unknown(prefix, {f"{prefix}{name}".upper() for name in kind.model_fields})
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0] if first["loc"] else "")
        secret = name in kind.model_fields and kind.model_fields[name].annotation is SecretStr
        given = "" if secret or first["type"] == "missing" else f" (given: {first['input']!r})"
        raise StartupError(f"{prefix}{name.upper()}: {first['msg']}{given}") from None


def describe(kind: type[ServerSettings]) -> str:
    """List the variables with meaning and default, the server's own first; nobody's values."""
    prefix = str(kind.model_config.get("env_prefix"))
    fields = sorted(kind.model_fields.items(), key=lambda item: item[0] in SHARED)
    lines = []
    for name, field in fields:
        default = "" if field.default is None else f" [default: {default_text(field)}]"
        lines.append(f"{prefix}{name.upper()}\n    {field.description}{default}")
    return "\n".join(lines)


def default_text(field: FieldInfo) -> str:
    """Answer a setting's default as one would write it."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "by machine"
    if isinstance(field.default, SecretStr):
        return field.default.get_secret_value()
    return "none" if field.default in (None, "") else str(field.default)


def _refuse_unknown(prefix: str, known: set[str]) -> None:
    for variable in sorted(os.environ):
        if variable.startswith(prefix) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise StartupError(f"{variable}: no such setting{hint}")
