"""`python -m pipeline rollout`: new ECS tasks for a published release."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RolloutError
from pipeline.rollout import EcsRollout, RecommenderTls, ecs_client, replay_goldens, roll_out
from releases.errors import ReleaseError
from releases.store import ReleaseStore

__all__ = ["rollout_command"]


def rollout_command(  # noqa: PLR0913, PLR0917 - the options of a command line
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
    tls_ca: Annotated[
        Path | None, typer.Option(help="CA of the recommender's certificate, PEM: by TLS")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate to show to it, PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM")] = None,
    tls_name: Annotated[
        str | None, typer.Option(help="What its certificate is for, if not HOST")
    ] = None,
) -> None:
    """Start model, faiss and recommender services anew on ECS; withdraw a release that fails.

    Only where servers are to be restarted: publishing alone is enough, since they watch the store.
    """
    if tls_ca is None and (tls_cert or tls_key or tls_name):
        raise typer.BadParameter("--tls-cert, --tls-key and --tls-name need --tls-ca")
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key: one needs the other")
    tls = None if tls_ca is None else RecommenderTls(tls_ca, tls_cert, tls_key, tls_name)
    try:
        ecs = EcsRollout(ecs_client(), cluster, services, seconds)
        manifest = roll_out(
            ecs,
            ReleaseStore(store),
            partial(replay_goldens, recommender, tls=tls),
            lambda line: print(line, file=sys.stderr),
            release,
        )
    except (RolloutError, ReleaseError) as error:
        print(f"rollout: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"release {manifest.release} is in service on {cluster}")
