"""`python -m local_stack demo|up|down`."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.calls import record_views
from local_stack.demo import DemoOptions, learn_release, run_demo
from local_stack.errors import StackError
from local_stack.explorer_settings import forget_explorer_settings, write_explorer_settings
from local_stack.stack import FIXED_PORTS, FREE_PORTS, SERVER_NAMES, Address, read_address
from local_stack.supervisor import (
    refuse_second,
    start_supervisor,
    stop_supervisor,
    supervise,
)
from local_stack.views import UserViews, last_views, titles
from releases.errors import ReleaseError
from releases.layout import HISTORY_LENGTH
from releases.store import ReleaseStore

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
FreePorts = Annotated[bool, typer.Option("--free-ports", help="Not the fixed ports.")]


@app.command()
def demo(
    events: Events = None, items: Items = None, directory: Directory = _BUILD / "demo"
) -> None:
    """Learn a release, start everything, ask for candidates, print them, stop."""
    quick = bool(os.environ.get("QUICK"))
    sys.exit(run_demo(DemoOptions(directory, events, items, quick)))


@app.command()
def up(
    events: Events = None,
    items: Items = None,
    directory: Directory = _UP,
    free_ports: FreePorts = False,
) -> None:
    """Start the stack and leave it running.

    Learns a release when there is none yet, and a newer one from --events or --items; the views
    that it was learnt from are recorded as the users' histories.
    """
    refuse_second(directory)
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "store"
    if events or items or not ReleaseStore(str(store)).usable():
        quick = bool(os.environ.get("QUICK"))
        learn_release(DemoOptions(directory, events, items, quick), store, directory / "pipeline")
    start_supervisor(directory, free_ports=free_ports)
    addresses = {name: read_address(directory / "stack", name) for name in SERVER_NAMES}
    collected = directory / "pipeline" / "collect"
    views: list[UserViews] = []
    if collected.exists():  # a store that was brought here has none
        views = last_views(collected, HISTORY_LENGTH)
        _record_views(addresses["recommender"], views)
    write_explorer_settings(directory, addresses, titles(collected / "items.parquet"), views)
    for name in ("recommender", "faiss-server", "model-server"):
        metrics = f"http://127.0.0.1:{addresses[name].metrics_port}/metrics"
        print(f"{name:12} {addresses[name].target}   metrics {metrics}")
    print("`make explore` shows what it answers, `make down` stops it")


def _record_views(recommender: Address, views: Sequence[UserViews]) -> None:
    with grpc.insecure_channel(recommender.target) as channel:
        record_views(pb2_grpc.RecommenderServiceStub(channel), views)


@app.command()
def down(directory: Directory = _UP) -> None:
    """Stop what `up` started."""
    print("stopped" if stop_supervisor(directory) else "nothing is running")
    forget_explorer_settings(directory)


@app.command(name="supervise", hidden=True)
def run_supervisor(directory: Directory = _UP, free_ports: FreePorts = False) -> None:
    """Run the stack until SIGTERM; what `up` starts in the background."""
    supervise(directory, directory / "store", FREE_PORTS if free_ports else FIXED_PORTS)


def main() -> None:
    """Run the command line; what goes wrong becomes one line and the exit code 1."""
    # By default SIGTERM ends Python without closing anything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except (StackError, ReleaseError) as error:
        sys.exit(f"local_stack: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
