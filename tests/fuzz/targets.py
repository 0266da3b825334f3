"""Every RPC of the stack, what it may answer, and good requests to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import Message
from recsys.faiss.v1 import faiss_service_pb2 as faiss
from recsys.recommender.v1 import recommender_service_pb2 as recommender
from recsys.tfserving.v1 import model_status_pb2, prediction_pb2

from service_runtime.tf_serving_api import (
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    tensor_of,
)
from tests.chaos.rotated import Catalogue
from tests.fuzz.messages import Vocabulary

__all__ = ["Target", "targets_of"]

_COMMON = frozenset(
    {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
)
"""What both contracts allow everywhere, but INTERNAL: "a fault of ours"."""

_USERS = tuple(f"user-{number}" for number in range(50))


@dataclass(frozen=True, eq=False)
class Target:
    """One RPC. `codes` are those that its contract names."""

    server: str
    path: str
    request: Callable[[], Message]
    valid: Sequence[Message]
    codes: frozenset[str]

    @property
    def name(self) -> str:
        """The method's name."""
        return self.path.rpartition("/")[2]


def targets_of(catalogue: Catalogue, release: int) -> tuple[list[Target], Vocabulary]:
    """List all RPCs, and the values that make sense to a stack that serves this release."""
    articles = catalogue.article_ids[:40].tolist()
    vector = catalogue.users_in(release)[0].astype("<f4").tobytes()
    packed = np.array(articles, "<i8").tobytes()
    spec = prediction_pb2.ModelSpec(name="user_tower")
    versioned = prediction_pb2.ModelSpec(name="user_tower")
    versioned.version.value = release
    targets = [
        *_of_recommender(articles, release),
        *_of_faiss_server(articles, vector, packed, release),
        *_of_model_server(catalogue, spec, versioned),
    ]
    vocabulary: dict[str, Sequence[object]] = {
        "user_id": _USERS,
        "release": (release,),
        "golden_histories_of": (release,),
        "limit": (1, 10, 200, 1000),
        "k": (1, 10, 200, 6000),
        "nprobe": (1, 4),
        "operator": (1, 2),
        "recent_article_ids": articles,
        "article_ids": articles,
        "article_id": articles,
        "excluded_article_ids": articles,
        "vectors": (vector, vector * 3),
        "excluded_ids": (packed, b""),
        "name": ("user_tower",),
        "signature_name": ("serving_default", ""),
        "metadata_field": ("signature_def",),
        "key": ("history", "region"),
        "dtype": (prediction_pb2.DT_INT64,),
        "size": (1, 50),
        "value": (release,),
        "viewed_at_ms": (1_700_000_000_000, 0),
    }
    return targets, vocabulary


def _of_recommender(articles: list[int], release: int) -> list[Target]:
    service = "/recsys.recommender.v1.RecommenderService/"
    views = [recommender.View(article_id=one, viewed_at_ms=1_700_000_000_000) for one in articles]
    condition = recommender.AttributeFilter(
        attribute="category", operator=recommender.FILTER_OPERATOR_IN, values=[1, 2]
    )
    return [
        Target(
            "recommender",
            service + "GetCandidates",
            recommender.GetCandidatesRequest,
            [
                recommender.GetCandidatesRequest(user_id=_USERS[0]),
                recommender.GetCandidatesRequest(
                    user_id=_USERS[1],
                    limit=20,
                    recent_article_ids=articles,
                    excluded_article_ids=articles[:5],
                    exclude_viewed=True,
                    region_id=3,
                    release=release,
                ),
                recommender.GetCandidatesRequest(user_id=_USERS[2], filters=[condition]),
            ],
            _COMMON | {"FAILED_PRECONDITION"},
        ),
        Target(
            "recommender",
            service + "RecordViews",
            recommender.RecordViewsRequest,
            [recommender.RecordViewsRequest(user_id=_USERS[0], views=views)],
            _COMMON,
        ),
        Target(
            "recommender",
            service + "GetHistory",
            recommender.GetHistoryRequest,
            [recommender.GetHistoryRequest(user_id=_USERS[0])],
            _COMMON,
        ),
    ]


def _of_faiss_server(
    articles: list[int], vector: bytes, packed: bytes, release: int
) -> list[Target]:
    service = "/recsys.faiss.v1.FaissService/"
    condition = faiss.AttributeFilter(
        attribute="category", operator=faiss.FILTER_OPERATOR_NOT_IN, values=[1]
    )
    codes = _COMMON | {"FAILED_PRECONDITION"}
    searches = [
        faiss.SearchRequest(release=release, vectors=vector, k=200),
        faiss.SearchRequest(release=release, vectors=vector * 2, k=10, nprobe=1),
        faiss.SearchRequest(release=release, vectors=vector, k=10, excluded_ids=[packed]),
        faiss.SearchRequest(release=release, vectors=vector, k=10, filters=[condition]),
    ]
    popular = [
        faiss.GetPopularRequest(release=release),
        faiss.GetPopularRequest(release=release, all_regions=True),
        faiss.GetPopularRequest(release=release, region_id=1),
    ]
    vectors = [faiss.GetVectorsRequest(release=release, article_ids=articles)]
    # Of articles that no release has: the other targets' answers stay what they are.
    strangers = [-articles[0] % (1 << 62), 5]
    removed = [faiss.RemoveRequest(article_ids=strangers)]
    restored = [faiss.RestoreRequest(article_ids=strangers)]
    status = [
        faiss.GetStatusRequest(),
        faiss.GetStatusRequest(golden_histories_of=release, in_use=[release], refused=[1]),
    ]
    return [
        Target("faiss-server", service + "Search", faiss.SearchRequest, searches, codes),
        Target("faiss-server", service + "GetVectors", faiss.GetVectorsRequest, vectors, codes),
        Target("faiss-server", service + "GetPopular", faiss.GetPopularRequest, popular, codes),
        Target("faiss-server", service + "Remove", faiss.RemoveRequest, removed, codes),
        Target("faiss-server", service + "Restore", faiss.RestoreRequest, restored, codes),
        Target("faiss-server", service + "GetStatus", faiss.GetStatusRequest, status, codes),
    ]


def _of_model_server(
    catalogue: Catalogue, spec: prediction_pb2.ModelSpec, versioned: prediction_pb2.ModelSpec
) -> list[Target]:
    predict = prediction_pb2.PredictRequest(model_spec=versioned)
    predict.inputs["history"].CopyFrom(tensor_of(catalogue.histories[:2]))
    predict.inputs["region"].CopyFrom(tensor_of(np.full(2, -1, np.int64)))
    metadata = prediction_pb2.GetModelMetadataRequest(
        model_spec=spec, metadata_field=["signature_def"]
    )
    request = model_status_pb2.GetModelStatusRequest
    status = request(model_spec=versioned)
    # TensorFlow Serving's own codes: a model or version that is not in service is NOT_FOUND.
    codes = _COMMON | {"NOT_FOUND", "FAILED_PRECONDITION"}
    return [
        Target("model-server", PREDICT, prediction_pb2.PredictRequest, [predict], codes),
        Target(
            "model-server",
            GET_MODEL_METADATA,
            prediction_pb2.GetModelMetadataRequest,
            [metadata],
            codes,
        ),
        Target(
            "model-server",
            GET_MODEL_STATUS,
            model_status_pb2.GetModelStatusRequest,
            [status],
            codes,
        ),
    ]
