"""`python -m faiss_server`: serve until SIGTERM, configured by `FAISS_SERVER_*`."""

import os
import sys

from service_runtime.grpc_environment import prepare_grpc

__all__ = ["main"]


def main() -> int:
    """Run the server; answer the exit code."""
    # Read when faiss is imported; faiss.omp_set_num_threads does not reach other threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare_grpc()

    from faiss_server.config import FaissServerSettings  # noqa: PLC0415 - imports faiss below
    from faiss_server.server import serve  # noqa: PLC0415
    from service_runtime.process import run_process  # noqa: PLC0415

    return run_process(FaissServerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
