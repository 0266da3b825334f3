from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recsys.faiss.v1 import faiss_service_pb2 as pb

from tests.faiss_server.serving import (
    SERVED,
    RunningFaissServer,
    good_search,
    language_filter,
    packed,
    random_vectors,
    rows_of_response,
)

DOCUMENTED = {
    "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAVAILABLE", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"release": 0}, "release: is required"),
        ({"release": -4}, "release: is required"),
        ({"vectors": b""}, "vectors: 0 are not 1 to 256"),
        ({"vectors": bytes(32 * 257)}, "vectors: 257 are not 1 to 256"),
        ({"vectors": bytes(31)}, "vectors: 31 bytes are not values of 4 bytes"),
        ({"vectors": bytes(28)}, "vectors: 7 values are not rows of 8, the release's dimension"),
        ({"vectors": np.full(8, np.nan, "<f4").tobytes()}, "vectors: a value is NaN or infinite"),
        ({"vectors": np.full(8, -np.inf, "<f4").tobytes()}, "vectors: a value is NaN or infinite"),
        ({"vectors": np.full(8, 3e38, "<f4").tobytes()}, "vectors: values so large"),
        ({"k": 0}, "k: 0 is not 1 to 6000"),
        ({"k": -1}, "k: -1 is not 1 to 6000"),
        ({"k": 6001}, "k: 6001 is not 1 to 6000"),
        ({"nprobe": 0}, "nprobe: 0 is not 1 to 16"),
        ({"nprobe": 17}, "nprobe: 17 is not 1 to 16"),
        ({"excluded_ids": [b"", b""]}, "excluded_ids: 2 elements, must be none or one for each"),
        ({"excluded_ids": [bytes(9)]}, "excluded_ids[0]: 9 bytes are not values of 8 bytes"),
        ({"excluded_ids": [packed(4, -5)]}, "excluded_ids[0]: article id -5 is negative"),
        ({"excluded_ids": [bytes(8 * 6001)]}, "excluded_ids[0]: 6001 ids are more than 6000"),
        ({"filters": [language_filter(1)] * 17}, "filters: 17 are more than 16"),
        ({"filters": [language_filter()]}, "filters[0].values: 0 are not 1 to 1000"),
        ({"filters": [language_filter(*range(1001))]}, "filters[0].values: 1001 are not 1 to 1000"),
        (
            {"filters": [language_filter(1), language_filter(1, operator=0)]},
            "filters[1].operator: 0 is not",
        ),
        (
            {"filters": [language_filter(1, operator=9)]},
            "filters[0].operator: 9 is not IN or NOT_IN",
        ),
        (
            {
                "filters": [
                    pb.AttributeFilter(attribute="size", operator=pb.FILTER_OPERATOR_IN, values=[1])
                ]
            },
            "the release has no attribute 'size'; it has: author, language, shelf",
        ),
    ],
)
async def test_a_wrong_field_of_a_search_is_named(
    server: RunningFaissServer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.faiss.Search(good_search(**fields))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(caught.value.details())
    assert sum((await server.faiss.Search(good_search())).counts) == 10


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        ("GetVectors", pb.GetVectorsRequest(article_ids=[1]), "release: is required"),
        (
            "GetVectors",
            pb.GetVectorsRequest(release=SERVED),
            "article_ids: 0 ids are not 1 to 1000",
        ),
        (
            "GetVectors",
            pb.GetVectorsRequest(release=SERVED, article_ids=range(1001)),
            "article_ids: 1001 ids are not 1 to 1000",
        ),
        (
            "GetVectors",
            pb.GetVectorsRequest(release=SERVED, article_ids=[4, -1]),
            "article_ids: article id -1 is negative",
        ),
        ("GetPopular", pb.GetPopularRequest(), "release: is required"),
        (
            "GetPopular",
            pb.GetPopularRequest(release=SERVED, region_id=3, all_regions=True),
            "region_id: must be absent with all_regions",
        ),
        (
            "GetPopular",
            pb.GetPopularRequest(release=SERVED, region_id=-1),
            "region_id: -1 is negative",
        ),
    ],
)
async def test_a_wrong_field_of_another_call_is_named(
    server: RunningFaissServer, method: str, request_: Any, message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(server.faiss, method)(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(caught.value.details())


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Search", good_search(release=9)),
        ("GetVectors", pb.GetVectorsRequest(release=9, article_ids=[1])),
        ("GetPopular", pb.GetPopularRequest(release=9)),
        ("GetPopular", pb.GetPopularRequest(release=9, all_regions=True)),
    ],
)
async def test_a_release_that_is_not_held_is_a_failed_precondition(
    server: RunningFaissServer, method: str, request_: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(server.faiss, method)(request_)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert f"release 9 is not held; ready: {SERVED}" in str(caught.value.details())


def small_or_any(limit: int) -> Any:
    return st.integers(-1, limit) | st.integers(-(2**31), 2**31 - 1)


REQUESTS = st.builds(
    pb.SearchRequest,
    release=st.just(SERVED) | st.integers(-(2**63), 2**63 - 1),
    vectors=st.integers(1, 3).map(lambda rows: random_vectors(rows, rows).tobytes())
    | st.binary(min_size=32, max_size=32)
    | st.binary(max_size=70),
    k=small_or_any(50),
    nprobe=st.none() | small_or_any(16),
    excluded_ids=st.lists(st.lists(st.integers(0, 2**63 - 1)).map(lambda v: packed(*v)), max_size=3)
    | st.lists(st.binary(max_size=20), max_size=3),
    filters=st.lists(
        st.builds(
            pb.AttributeFilter,
            attribute=st.sampled_from(["language", "author", "shelf"]) | st.text(max_size=5),
            operator=st.sampled_from([1, 2]) | st.integers(0, 5),
            values=st.lists(st.integers(-2, 6) | st.integers(-(2**63), 2**63 - 1), max_size=5),
        ),
        max_size=3,
    ),
)


@given(request_=REQUESTS)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_no_request_gets_an_answer_that_is_not_documented(
    request_: pb.SearchRequest, server: RunningFaissServer
) -> None:
    call = server.faiss.Search(request_)
    code = await call.code()
    if code != grpc.StatusCode.OK:
        assert code.name in DOCUMENTED
        assert await call.details()
        return
    response = await call
    assert response.release == request_.release
    for ids, scores in rows_of_response(response):
        assert len(ids) <= request_.k
        assert len(set(ids.tolist())) == len(ids)
        assert (ids >= 0).all()
        assert (np.diff(scores) <= 0).all()
