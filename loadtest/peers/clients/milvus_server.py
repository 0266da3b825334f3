"""Becomes Milvus standalone: `python -m ... DIRECTORY PORT`, its data below the directory."""

import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import milvus

_SESSION_SECONDS = 15
_ROLES = (
    "rootCoord", "proxy", "queryCoord", "queryNode", "indexCoord", "indexNode", "dataCoord",
    "dataNode",
)  # fmt: skip


def main() -> None:
    """Unpack and configure it where that is not done, then become the server."""
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    home = directory / "data"
    config = milvus.MilvusServerConfig()
    config.update(data_dir=str(home), proxy_port=port)
    # One that was killed is taken for alive until its session is over, and nobody starts before.
    config.set("common.session.ttl", _SESSION_SECONDS)
    config.set("log.level", "warn")
    for role in _ROLES:
        config.set(f"{role}.ip", "127.0.0.1")
    config.resolve()
    milvus._initialize_data_files(str(home))  # noqa: SLF001 - what its own start does
    metrics_port, *etcd_ports = _free_ports(3)
    etcd = home / "configs" / "etcd.yaml"
    etcd.write_text(_etcd(*etcd_ports))
    os.chdir(home)
    os.environ |= {
        "DEPLOY_MODE": "STANDALONE",
        "ETCD_CONFIG_PATH": str(etcd),
        "METRICS_PORT": str(metrics_port),
        "MILVUS_RUN_DIR": str(home / "run"),
        "LD_LIBRARY_PATH": str(home / "bin"),
    }
    server = str(home / "bin" / "milvus")
    os.execv(server, [server, "run", "standalone"])  # noqa: S606 - of this environment


def _free_ports(count: int) -> list[int]:
    """Answer ports that were free a moment ago."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _etcd(client_port: int, peer_port: int) -> str:
    """Answer settings for the etcd inside of it, which else takes 2379 and 2380."""
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return f"""\
listen-client-urls: {client}
advertise-client-urls: {client}
listen-peer-urls: {peer}
initial-advertise-peer-urls: {peer}
initial-cluster: default={peer}
"""


if __name__ == "__main__":
    main()
