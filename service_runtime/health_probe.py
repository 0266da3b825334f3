"""`python -m service_runtime.health_probe`: asks one server for its health; for containers.

`HEALTH_PROBE_ADDRESS` is host:port of the server. Where it speaks TLS, `HEALTH_PROBE_CA_FILE` is
its certificate's CA, `HEALTH_PROBE_CERT_FILE` and `HEALTH_PROBE_KEY_FILE` are shown to it, all PEM,
and `HEALTH_PROBE_NAME`, localhost by default, is what its certificate is for.

Exit 0: SERVING. Exit 1: anything else, which is said in one line.
"""

import os
import sys
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["main"]

_SECONDS: Final = 2.0


def main() -> int:
    """Ask; answer the exit code."""
    address = _setting("ADDRESS")
    if address is None:
        print("HEALTH_PROBE_ADDRESS is missing: host:port of the server", file=sys.stderr)
        return 1
    try:
        status = _ask(address)
    except grpc.RpcError as error:
        details = getattr(error, "details", str)  # of grpc's own errors, which are calls too
        print(f"no answer: {details()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    if status != health_pb2.HealthCheckResponse.SERVING:
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(status), file=sys.stderr)
        return 1
    return 0


def _ask(address: str) -> "health_pb2.HealthCheckResponse.ServingStatus.ValueType":
    with _channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
    return answer.status


def _channel(address: str) -> grpc.Channel:
    ca, key, certificate = (_content(name) for name in ("CA_FILE", "KEY_FILE", "CERT_FILE"))
    if ca is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(ca, key, certificate),
        options=[("grpc.ssl_target_name_override", _setting("NAME") or "localhost")],
    )


def _content(name: str) -> bytes | None:
    path = _setting(name)
    return None if path is None else Path(path).read_bytes()


def _setting(name: str) -> str | None:
    """Answer a variable of the environment, without pydantic: importing it took two thirds of the
    CPU time of a check, and each container is checked every ten seconds.
    """
    return os.environ.get(f"HEALTH_PROBE_{name}") or None


if __name__ == "__main__":
    sys.exit(main())
