"""`python -m explorer`: serve the page until SIGTERM or Ctrl-C, configured by `EXPLORER_*`."""

import argparse
import asyncio
import sys

from explorer.config import ExplorerSettings, load_settings
from explorer.errors import StartupError
from explorer.server import serve


def main() -> int:
    """Run the command line; answer the exit code."""
    _parser().parse_args()
    try:
        asyncio.run(serve(load_settings()))
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    settings = [
        f"  EXPLORER_{name.upper():18} {field.description}"
        for name, field in ExplorerSettings.model_fields.items()
    ]
    return argparse.ArgumentParser(
        prog="python -m explorer",
        description="One web page for engineers: what a user is answered, and how fast.",
        epilog="\n".join(["settings, from the environment:", *settings]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    sys.exit(main())
