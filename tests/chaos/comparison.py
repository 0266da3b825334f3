"""How alike two releases in service answer the same users."""

import grpc
import numpy as np
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from tests.chaos.load import user_name
from tests.chaos.rotated import LIMIT

__all__ = ["candidate_overlap"]

_USERS = 50
_SECONDS = 1.0


def candidate_overlap(address: str, releases: tuple[int, int]) -> float:
    """Ask for candidates of both releases; answer the mean share that both of them name."""
    with grpc.insecure_channel(address) as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)

        def articles(user: int, release: int) -> list[int]:
            request = pb2.GetCandidatesRequest(
                user_id=user_name(user), limit=LIMIT, exclude_viewed=True, release=release
            )
            return list(stub.GetCandidates(request, timeout=_SECONDS).article_ids)

        older, newer = releases
        shares = [
            np.isin(articles(user, older), articles(user, newer)).mean() for user in range(_USERS)
        ]
    return round(float(np.mean(shares)), 4)
