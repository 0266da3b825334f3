"""Every wrong field is INVALID_ARGUMENT with its name, and the server keeps serving."""

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2

IN = pb2.FILTER_OPERATOR_IN


def a_filter(**fields) -> pb2.AttributeFilter:
    return pb2.AttributeFilter(**{"attribute": "category", "operator": IN, "values": [1], **fields})


BAD_CANDIDATES = {
    "user_id: must not be empty": {"user_id": ""},
    "user_id: longer than 256": {"user_id": "ü" * 129},
    "limit: 0": {"limit": 0},
    "limit: -1": {"limit": -1},
    "limit: 1001": {"limit": 1001},
    "excluded_article_ids[1]: -7": {"excluded_article_ids": [1, -7]},
    "excluded_article_ids: 5001": {"excluded_article_ids": range(5001)},
    "recent_article_ids[0]: -1": {"recent_article_ids": [-1]},
    "recent_article_ids: 1001": {"recent_article_ids": range(1001)},
    "region_id: -2": {"region_id": -2},
    "release: 0": {"release": 0},
    "release: -3": {"release": -3},
    "filters: 17": {"filters": [a_filter()] * 17},
    "filters[1].attribute: must not be empty": {"filters": [a_filter(), a_filter(attribute="")]},
    "filters[0].attribute: 'colour' is unknown": {"filters": [a_filter(attribute="colour")]},
    "filters[0].operator": {"filters": [a_filter(operator=0)]},
    "filters[0].values: 0": {"filters": [a_filter(values=[])]},
    "filters[0].values: 1001": {"filters": [a_filter(values=range(1001))]},
}
BAD_VIEWS = {
    "user_id": {"user_id": "", "views": [pb2.View(article_id=1)]},
    "views: 0": {"user_id": "u"},
    "views: 1001": {"user_id": "u", "views": [pb2.View(article_id=1)] * 1001},
    "views[1].article_id: -1": {
        "user_id": "u",
        "views": [pb2.View(article_id=1), pb2.View(article_id=-1)],
    },
    "views[0].viewed_at_ms: -1": {"user_id": "u", "views": [pb2.View(viewed_at_ms=-1)]},
    f"views[0].viewed_at_ms: {2**53}": {"user_id": "u", "views": [pb2.View(viewed_at_ms=2**53)]},
}


@pytest.mark.parametrize("message", BAD_CANDIDATES)
async def test_a_wrong_field_of_get_candidates_is_named(asked, message):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(**BAD_CANDIDATES[message])
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(message)
    assert len((await asked.candidates(recent_article_ids=[1])).article_ids) == 200


@pytest.mark.parametrize("message", BAD_VIEWS)
async def test_a_wrong_field_of_record_views_is_named(asked, message):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.stub.RecordViews(pb2.RecordViewsRequest(**BAD_VIEWS[message]))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(message)


async def test_get_history_needs_a_user(asked):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.stub.GetHistory(pb2.GetHistoryRequest())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message_do_not_end_the_server(asked):
    call = asked.channel.unary_unary("/recsys.recommender.v1.RecommenderService/GetCandidates")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"\xff\xff\xff")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await asked.candidates(recent_article_ids=[1])
