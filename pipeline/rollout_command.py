"""`python -m pipeline rollout`: new ECS tasks for a published release."""

import sys
from functools import partial
from typing import Annotated

import typer

from pipeline.errors import RolloutError
from pipeline.rollout import EcsRollout, ecs_client, replay_goldens, roll_out
from releases.errors import ReleaseError
from releases.store import ReleaseStore

__all__ = ["rollout_command"]


def rollout_command(
    store: Annotated[str, typer.Option(envvar="RELEASES_STORE", help="The serving store")],
    cluster: Annotated[str, typer.Option(help="The ECS cluster")],
    recommender: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where golden histories are replayed")
    ],
    services: Annotated[
        tuple[str, str, str],
        typer.Option(metavar="MODEL FAISS RECOMMENDER", help="ECS services, in this order"),
    ] = ("model-server", "faiss-server", "recommender"),
    release: Annotated[
        int | None, typer.Option(min=1, help="Refuse to roll out another; default: the newest")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="For each service to become steady")
    ] = EcsRollout.seconds,
) -> None:
    """Start model, faiss and recommender services anew on ECS; withdraw a release that fails.

    Only where servers are to be restarted: publishing alone is enough, since they watch the store.
    """
    try:
        ecs = EcsRollout(ecs_client(), cluster, services, seconds)
        manifest = roll_out(
            ecs,
            ReleaseStore(store),
            partial(replay_goldens, recommender),
            lambda line: print(line, file=sys.stderr),
            release,
        )
    except (RolloutError, ReleaseError) as error:
        print(f"rollout: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"release {manifest.release} is in service on {cluster}")
