"""Becomes Milvus standalone: `python -m ... DIRECTORY PORT`, its data below the directory."""

import os
import sys
from pathlib import Path

import milvus


def main() -> None:
    """Unpack and configure it where that is not done, then become the server."""
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    home = directory / "data"
    config = milvus.MilvusServerConfig()
    config.update(data_dir=str(home), proxy_port=port)
    # It is halted while others are measured, and would take itself for lost.
    config.set("common.session.ttl", 86_400)
    config.resolve()
    milvus._initialize_data_files(str(home))  # noqa: SLF001 - what its own start does
    metrics_port, probe = config.resolve_port(port + 1)
    probe.close()
    os.chdir(home)
    os.environ |= {
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(metrics_port),
        "MILVUS_RUN_DIR": str(home / "run"),
        "LD_LIBRARY_PATH": str(home / "bin"),
    }
    server = str(home / "bin" / "milvus")
    os.execv(server, [server, "run", "standalone"])  # noqa: S606 - of this environment


if __name__ == "__main__":
    main()
