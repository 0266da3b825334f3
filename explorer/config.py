"""Settings of the explorer, `EXPLORER_*`."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from explorer.errors import StartupError

__all__ = ["ExplorerSettings", "Target", "load_settings", "parse_targets"]


@dataclass(frozen=True, slots=True)
class Target:
    """A host's name or address, and the port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ExplorerSettings(BaseSettings):
    """Where the page is served, and where the parts are that it asks."""

    model_config = SettingsConfigDict(env_prefix="EXPLORER_", frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. There is no authentication: think before widening it.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="HTTP port; 0 takes a free one."
    )
    ready_file: Path | None = Field(
        default=None, description="Once listening, port and pid are written here as JSON."
    )
    recommender: str = Field(
        default="127.0.0.1:50051", description="host:port of the recommender that is asked."
    )
    faiss_servers: str = Field(
        default="127.0.0.1:50052",
        description="host:port of the faiss servers; every address is shown. Comma-separated.",
    )
    model_servers: str = Field(
        default="127.0.0.1:8500",
        description="host:port of TF Serving; every address is shown. Comma-separated.",
    )
    model_name: str = Field(default="user_tower", description="The model's name in TF Serving.")
    items: Path | None = Field(
        default=None, description="CSV with item_id and title; default: articles by number."
    )
    users: str = Field(
        default="", description="Examples of users to pick from, comma-separated; any can be typed."
    )
    deadline_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=2.0, description="How long a call may take."
    )
    tls_ca_file: Path | None = Field(
        default=None, description="CA of the parts' certificates, PEM: they are asked by TLS only."
    )
    tls_cert_file: Path | None = Field(
        default=None, description="Certificate chain to show to parts that ask for one, PEM."
    )
    tls_key_file: Path | None = Field(default=None, description="Its key, PEM.")
    tls_name: str | None = Field(
        default=None, description="What their certificates are for; default: each one's host."
    )

    @field_validator("recommender", "faiss_servers", "model_servers")
    @classmethod
    def _targets_parse(cls, value: str) -> str:
        parse_targets(value)
        return value

    @field_validator("recommender")
    @classmethod
    def _one_target(cls, value: str) -> str:
        if len(parse_targets(value)) > 1:
            raise ValueError("one host:port is asked, and no more")
        return value

    @property
    def example_users(self) -> tuple[str, ...]:
        """The users to pick from, each once."""
        return tuple(dict.fromkeys(user.strip() for user in self.users.split(",") if user.strip()))


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read comma-separated `host:port`; raises ValueError naming the part that is none."""
    targets = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
        if not colon or not host or not is_port:
            raise ValueError(f"{part.strip()!r} is not host:port")
        targets.append(Target(host.strip("[]"), int(port)))
    return tuple(targets)


def load_settings() -> ExplorerSettings:
    """Read the environment; raises StartupError naming the variable that is malformed or misspelt.

    An empty variable counts as one that is not set.
    """
    known = {f"EXPLORER_{name.upper()}" for name in ExplorerSettings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith("EXPLORER_") and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise StartupError(f"{variable}: no such setting{hint}")
    try:
        return ExplorerSettings(_env_ignore_empty=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = f"EXPLORER_{first['loc'][0]}".upper()
        raise StartupError(f"{variable}: {first['msg']} (given: {first['input']!r})") from None
