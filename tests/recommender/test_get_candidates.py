"""GetCandidates over the wire: the ordinary answer, and every step down from it."""

import asyncio
import re

import grpc
import numpy as np
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from recommender.redis_client import connect_redis
from tests.support.backends import (
    POPULAR,
    REGION,
    REGION_POPULAR,
    ScriptedFaiss,
    ScriptedModel,
    right_answer,
)


async def test_answers_the_nearest_articles_to_the_stored_history(asked):
    await asked.view("stored", 11, 12, 13)
    answer = await asked.candidates(user_id="stored")
    assert list(answer.article_ids) == right_answer(1, 13, 200).tolist()
    assert answer.source == pb2.SOURCE_PERSONALIZED
    assert answer.release == 1
    assert not answer.shorter_than_requested
    assert list(answer.scores) == sorted(answer.scores, reverse=True)


async def test_recent_articles_replace_the_stored_history(asked):
    await asked.view("replaced", 11)
    answer = await asked.candidates(user_id="replaced", recent_article_ids=[42, 11], limit=3)
    assert list(answer.article_ids) == right_answer(1, 42, 3).tolist()


async def test_of_recent_articles_the_first_fifty_distinct_ones_count(asked):
    given = [7, 7, *range(100), 7]
    await asked.candidates(recent_article_ids=given, exclude_viewed=True, limit=1)
    (excluded,) = asked.faiss.searches[-1].excluded_ids
    assert np.frombuffer(excluded, "<i8").tolist() == [7, *(i for i in range(50) if i != 7)]


async def test_exclusions_and_viewed_articles_travel_to_the_search(asked):
    await asked.view("excluding", 21, 22)
    await asked.candidates(
        user_id="excluding", excluded_article_ids=[9, 8], exclude_viewed=True, limit=5
    )
    (excluded,) = asked.faiss.searches[-1].excluded_ids
    assert sorted(np.frombuffer(excluded, "<i8")) == [8, 9, 21, 22]


async def test_filters_travel_to_the_search(asked):
    await asked.candidates(
        recent_article_ids=[1],
        filters=[
            pb2.AttributeFilter(
                attribute="category", operator=pb2.FILTER_OPERATOR_NOT_IN, values=[2, 4]
            )
        ],
    )
    (sent,) = asked.faiss.searches[-1].filters
    assert (sent.attribute, list(sent.values)) == ("category", [2, 4])
    assert sent.operator == pb2.FILTER_OPERATOR_NOT_IN


async def test_says_when_fewer_articles_are_left_than_asked_for(asked):
    asked.faiss.at_most = 7
    answer = await asked.candidates(recent_article_ids=[1], limit=10)
    assert len(answer.article_ids) == 7
    assert answer.shorter_than_requested


async def test_stage_times_travel_in_trailing_metadata(asked):
    call = asked.stub.GetCandidates(pb2.GetCandidatesRequest(user_id="timed"))
    await call
    timing = dict(await call.trailing_metadata())["server-timing"]
    assert re.fullmatch(r"history;dur=\d+\.\d+, popular;dur=\d+\.\d+", timing)
    await asked.view("timed", 1)
    call = asked.stub.GetCandidates(pb2.GetCandidatesRequest(user_id="timed"))
    await call
    timing = dict(await call.trailing_metadata())["server-timing"]
    assert re.findall(r"(\w+);", timing) == ["history", "user_vector", "search"]


async def test_without_history_the_answer_is_popular(asked):
    answer = await asked.candidates(user_id="nobody", limit=50)
    assert answer.source == pb2.SOURCE_POPULAR
    assert answer.fallback_reason == pb2.FALLBACK_REASON_NO_HISTORY
    assert list(answer.article_ids) == POPULAR[:50].tolist()


async def test_popular_answers_keep_filters_exclusions_and_the_region(asked):
    answer = await asked.candidates(
        user_id="nobody",
        region_id=REGION,
        excluded_article_ids=[303, 6],
        filters=[
            pb2.AttributeFilter(attribute="category", operator=pb2.FILTER_OPERATOR_IN, values=[0])
        ],
        limit=9,
    )
    local = [int(i) for i in REGION_POPULAR if i % 3 == 0 and i != 303]
    overall = [int(i) for i in POPULAR if i % 3 == 0 and i not in (6, *local)]
    assert list(answer.article_ids) == (local + overall)[:9]


async def test_a_history_of_unknown_articles_steps_down(asked):
    asked.model.known = 0
    answer = await asked.candidates(recent_article_ids=[1])
    assert answer.fallback_reason == pb2.FALLBACK_REASON_UNKNOWN_HISTORY


async def test_in_one_batch_one_users_bad_vector_is_nobody_elses(asked):
    """The first call keeps the model busy, so that the next ones travel together."""
    asked.model.not_a_number_for, asked.model.delay_seconds = 13, 0.005
    newest = [1, 13, 2, 3, 13, 4, 5, 6]
    calls = asked.model.calls
    answers = await asyncio.gather(
        *(asked.candidates(recent_article_ids=[article], limit=5) for article in newest)
    )
    assert asked.model.calls - calls < len(newest)
    for article, answer in zip(newest, answers, strict=True):
        if article == 13:
            assert answer.fallback_reason == pb2.FALLBACK_REASON_MODEL_UNAVAILABLE
        else:
            assert answer.source == pb2.SOURCE_PERSONALIZED
            assert list(answer.article_ids) == right_answer(1, article, 5).tolist()


async def test_a_user_vector_that_is_not_a_number_is_not_searched(asked):
    asked.model.not_a_number = True
    answer = await asked.candidates(recent_article_ids=[1])
    assert answer.fallback_reason == pb2.FALLBACK_REASON_MODEL_UNAVAILABLE
    assert asked.faiss.searches[-1].k != 200  # only the golden histories were


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        ("model", pb2.FALLBACK_REASON_MODEL_UNAVAILABLE),
        ("faiss", pb2.FALLBACK_REASON_SEARCH_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("fault", ["refuse", "hang", "answer_as"])
async def test_a_failing_backend_steps_the_answer_down_within_the_deadline(
    asked, side, reason, fault
):
    setattr(
        getattr(asked, side),
        fault,
        {"refuse": grpc.StatusCode.UNAVAILABLE, "hang": True, "answer_as": 999}[fault],
    )
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    answer = await asked.stub.GetCandidates(request, timeout=0.5)
    assert answer.source == pb2.SOURCE_POPULAR
    assert answer.fallback_reason == reason
    assert answer.release == 1


async def test_without_redis_the_answer_is_popular_and_writing_is_an_error(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel()], faiss=[ScriptedFaiss()], redis_url="redis://127.0.0.1:1/0"
    )
    await asked.until_serving()
    answer = await asked.candidates()
    assert answer.fallback_reason == pb2.FALLBACK_REASON_HISTORY_UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.view("u", 1)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_before_any_release_is_ready_the_error_says_so(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[])], faiss=[ScriptedFaiss(releases=[])]
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(recent_article_ids=[1])
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "no release is ready" in refused.value.details()


async def test_a_refusal_is_retried_once_on_another_address(start_recommender):
    models = [ScriptedModel(), ScriptedModel()]
    asked = await start_recommender(models=models, faiss=[ScriptedFaiss()])
    await asked.until_serving()
    for model in models:
        model.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED

    async def both_were_asked_once() -> bool:
        for model in models:
            model.calls = 0
        answer = await asked.candidates(recent_article_ids=[1])
        assert answer.fallback_reason == pb2.FALLBACK_REASON_MODEL_UNAVAILABLE
        return [model.calls for model in models] == [1, 1]

    await asked.until(both_were_asked_once)
    models[0].refuse = None
    for _ in range(4):
        answer = await asked.candidates(recent_article_ids=[1])
        assert answer.source == pb2.SOURCE_PERSONALIZED


async def test_the_addresses_of_a_backend_take_turns(start_recommender):
    models, indexes = [ScriptedModel(), ScriptedModel()], [ScriptedFaiss(), ScriptedFaiss()]
    asked = await start_recommender(models=models, faiss=indexes)
    await asked.until_serving()

    async def all_are_asked() -> bool:
        for backend in (*models, *indexes):
            backend.calls = 0
        for _ in range(10):
            await asked.candidates(recent_article_ids=[1])
        return [backend.calls for backend in (*models, *indexes)] == [5, 5, 5, 5]

    await asked.until(all_are_asked)


async def test_a_named_release_is_answered_from_or_refused(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])], faiss=[ScriptedFaiss(releases=[2, 1])]
    )
    await asked.until_serving()
    assert (await asked.candidates(recent_article_ids=[1])).release == 2

    async def both_are_proven() -> bool:
        try:
            return (await asked.candidates(recent_article_ids=[1], release=1)).release == 1
        except grpc.aio.AioRpcError:
            return False

    await asked.until(both_are_proven)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(recent_article_ids=[1], release=3)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "release" in refused.value.details()


async def test_history_can_be_read_back_newest_first(asked):
    await asked.view("reader", 1, 2, 3)
    history = await asked.stub.GetHistory(pb2.GetHistoryRequest(user_id="reader"))
    assert [(v.article_id, v.viewed_at_ms) for v in history.views] == [
        (3, 1002),
        (2, 1001),
        (1, 1000),
    ]


async def test_more_calls_than_the_limit_are_refused_and_health_is_not(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel()], faiss=[ScriptedFaiss()], max_concurrent_calls=2
    )
    await asked.until_serving()
    asked.model.hang = True
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    calls = [asked.stub.GetCandidates(request, timeout=1) for _ in range(6)]
    codes = [await call.code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4
    assert codes.count(grpc.StatusCode.OK) == 2  # stepped down
    await asked.until_serving()


async def test_a_malformed_redis_url_is_named(start_recommender):
    with pytest.raises(ValueError, match=r"^not redis://\[user:password@\]host"):
        connect_redis("http://127.0.0.1")
