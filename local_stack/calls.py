"""Calls of the stack's servers, as the demo makes them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from rich.progress import track

from local_stack.errors import StackError
from local_stack.views import UserViews

__all__ = ["naming_call", "record_views", "views_of"]


@contextmanager
def naming_call(name: str) -> Iterator[None]:
    """Turn a failed call into a StackError of one line: the call, its code and the details."""
    try:
        yield
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)  # what every stub raises
        details = " ".join((call.details() or "").split())
        raise StackError(f"{name}: {call.code().name}: {details}") from error


def record_views(stub: pb2_grpc.RecommenderServiceStub, users: Iterable[UserViews]) -> None:
    """Record all views of all users, with a progress bar; raises StackError."""
    for user in track(users, "recording views", transient=True):
        with naming_call("RecordViews"):
            stub.RecordViews(views_of(user), timeout=5)


def views_of(user: UserViews) -> pb2.RecordViewsRequest:
    """Ask to record all views; those of the same second stay in their order."""
    places = enumerate(zip(user.article_ids, user.viewed_at, strict=True))
    return pb2.RecordViewsRequest(
        user_id=user.user_id,
        views=[
            pb2.View(article_id=article, viewed_at_ms=at * 1000 + place)
            for place, (article, at) in places
        ],
    )
