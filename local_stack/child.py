"""`python -m local_stack.child PARENT COMMAND...`: COMMAND, ended by the kernel with its parent.

Whatever ends the parent, even SIGKILL, leaves no process behind. Linux only (prctl); elsewhere the
command simply runs. A program of its own and not a preexec_fn: that is unsafe beside threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(f"parent {parent} is gone")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the caller's own


if __name__ == "__main__":
    main()
