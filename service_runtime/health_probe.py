"""`python -m service_runtime.health_probe`: asks one server for its health; for containers.

Exit 0: SERVING. Exit 1: anything else, which is said in one line.
"""

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.settings import Seconds

__all__ = ["main"]


class ProbeSettings(BaseSettings):
    """Where the server is and, where it speaks TLS, what it is spoken to with."""

    model_config = SettingsConfigDict(env_prefix="HEALTH_PROBE_", frozen=True)

    address: str = Field(description="host:port of the server.")
    seconds: Seconds = 2.0
    ca_file: Path | None = Field(default=None, description="CA of its certificate, PEM: by TLS.")
    cert_file: Path | None = None
    key_file: Path | None = None
    name: str = Field(default="localhost", description="What its certificate is for.")


def main() -> int:
    """Ask; answer the exit code."""
    try:
        status = _ask(ProbeSettings())
    except grpc.RpcError as error:
        details = getattr(error, "details", str)  # of grpc's own errors, which are calls too
        print(f"no answer: {details()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        print(f"HEALTH_PROBE_{str(first['loc'][0]).upper()}: {first['msg']}", file=sys.stderr)
        return 1
    if status != health_pb2.HealthCheckResponse.SERVING:
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(status), file=sys.stderr)
        return 1
    return 0


def _ask(settings: ProbeSettings) -> "health_pb2.HealthCheckResponse.ServingStatus.ValueType":
    with _channel(settings) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.seconds)
    return answer.status


def _channel(settings: ProbeSettings) -> grpc.Channel:
    if settings.ca_file is None:
        return grpc.insecure_channel(settings.address)
    ca, key, certificate = (
        None if each is None else each.read_bytes()
        for each in (settings.ca_file, settings.key_file, settings.cert_file)
    )
    return grpc.secure_channel(
        settings.address,
        grpc.ssl_channel_credentials(ca, key, certificate),
        options=[("grpc.ssl_target_name_override", settings.name)],
    )


if __name__ == "__main__":
    sys.exit(main())
