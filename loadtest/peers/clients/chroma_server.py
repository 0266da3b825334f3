"""Becomes a Chroma server: `python -m ... DIRECTORY PORT`, its data below the directory."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Become the server."""
    directory, port = sys.argv[1], sys.argv[2]
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    os.environ["RUST_LOG"] = "warn"  # else every request is written down
    command = Path(sys.executable).with_name("chroma")
    options = ["--path", f"{directory}/data", "--host", "127.0.0.1", "--port", port]
    os.execv(command, [str(command), "run", *options])  # noqa: S606 - of this environment


if __name__ == "__main__":
    main()
