"""`python -m local_stack demo|up|down`."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from local_stack.demo import DemoOptions, learn_release, run_demo
from local_stack.errors import StackError
from local_stack.stack import FIXED_PORTS
from local_stack.supervisor import start_supervisor, stop_supervisor, supervise

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

_BUILD = Path("build")
_UP = _BUILD / "up"

Events = Annotated[
    Path | None,
    typer.Option(
        help="CSV or Parquet of user_id,item_id,timestamp. Default: MovieLens 100k.",
        exists=True, dir_okay=False,
    ),
]  # fmt: skip
Items = Annotated[
    Path | None, typer.Option(help="CSV of item_id,title.", exists=True, dir_okay=False)
]
Directory = Annotated[Path, typer.Option(help="Where everything is kept.")]


@app.command()
def demo(
    events: Events = None, items: Items = None, directory: Directory = _BUILD / "demo"
) -> None:
    """Learn a release, start everything, ask for candidates, print them, stop."""
    quick = bool(os.environ.get("QUICK"))
    sys.exit(run_demo(DemoOptions(directory, events, items, quick)))


@app.command()
def up(events: Events = None, items: Items = None, directory: Directory = _UP) -> None:
    """Start the stack on the fixed ports and leave it running; learns a release the first time."""
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "store"
    if not (store / "releases").is_dir():
        quick = bool(os.environ.get("QUICK"))
        learn_release(DemoOptions(directory, events, items, quick), store, directory / "pipeline")
    start_supervisor(directory)
    for name in ("recommender", "faiss_server", "model_server"):
        port, metrics_port = getattr(FIXED_PORTS, name)
        print(f"{name:12} 127.0.0.1:{port}   metrics http://127.0.0.1:{metrics_port}/metrics")
    print("`make down` stops it")


@app.command()
def down(directory: Directory = _UP) -> None:
    """Stop what `up` started."""
    print("stopped" if stop_supervisor(directory) else "nothing is running")


@app.command(name="supervise", hidden=True)
def run_supervisor(directory: Directory = _UP) -> None:
    """Run the stack until SIGTERM; what `up` starts in the background."""
    supervise(directory, directory / "store")


def main() -> None:
    """Run the command line; a StackError becomes one line and the exit code 1."""
    # By default SIGTERM ends Python without closing anything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except StackError as error:
        sys.exit(f"local_stack: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
