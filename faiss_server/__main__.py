"""`python -m faiss_server`: serve until SIGTERM, configured by `FAISS_SERVER_*`.

With a command it works on an index instead (`build`, `tune`, `inspect`, `search`, `compare`), or
changes what is taken down (`remove`, `restore`).
"""

import os
import sys

from service_runtime.grpc_environment import prepare_grpc

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Serve, or run a command; answer the exit code."""
    return _run_command(arguments) if arguments else _serve()


def _serve() -> int:
    # Read when faiss is imported; faiss.omp_set_num_threads does not reach other threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare_grpc()

    from faiss_server.config import FaissServerSettings  # noqa: PLC0415 - imports faiss below
    from faiss_server.server import serve  # noqa: PLC0415
    from service_runtime.process import run_process  # noqa: PLC0415

    return run_process(FaissServerSettings, serve)


def _run_command(arguments: list[str]) -> int:
    # k-means on one core takes minutes where all of them take one.
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

    from faiss_server.command import run  # noqa: PLC0415 - no server needs it

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
