"""What grpc reads from the environment when it is imported; so this imports nothing of it."""

import os

__all__ = ["prepare_grpc"]

# The event engine hands each event from thread to thread; without it a call of the recommender
# costs half as many context switches (docs/decisions.md).
_EXPERIMENTS = "-event_engine_client,-event_engine_listener"


def prepare_grpc() -> None:
    """Choose grpc's engine, and silence it: its lines would come between ours, which are JSON.

    Call it before grpc is imported. What the environment says already stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", _EXPERIMENTS)
