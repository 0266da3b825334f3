"""One run at a time in a folder."""

import fcntl
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.errors import PipelineError

__all__ = ["lock_workdir"]

_LOCK_FILE: Final = "run.lock"


def lock_workdir(workdir: Path) -> BinaryIO:
    """Keep other runs out of a folder for as long as the file is open: until this process dies.

    Makes the folder. Raises PipelineError while another run is at work there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / _LOCK_FILE).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise PipelineError(
            f"{workdir}: another run is at work there; wait for its end, or give another --workdir"
        ) from None
    return lock
