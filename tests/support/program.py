"""How the measuring programs of the tests run: ended in good order, with the usual exit codes."""

import signal
import sys
from collections.abc import Callable

__all__ = ["run_program"]


def run_program(main: Callable[[], int]) -> None:
    """Run `main` and exit with its code; 143 after SIGTERM and 130 after Ctrl-C."""
    # By default SIGTERM ends Python without stopping what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
