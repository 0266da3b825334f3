"""Faults that no single backend shows alone: hangs, malformed answers, scale-in, crowds."""

import asyncio
import signal

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from tests.support.backends import ScriptedFaiss, ScriptedModel, right_answer
from tests.support.dns import dns_server


async def test_calls_on_an_address_that_goes_away_are_let_finish(start_recommender):
    models = [ScriptedModel(), ScriptedModel(host="127.0.0.2")]
    records = {"model.test": ["127.0.0.1", "127.0.0.2"]}
    async with dns_server(records) as (dns, _):
        asked = await start_recommender(
            models=models,
            faiss=[ScriptedFaiss()],
            same_model_port=True,
            model_servers="model.test",
            dns_server=dns,
            resolve_seconds=0.02,
            max_batch=1,
        )
        await asked.until_serving()

        async def both_are_asked() -> bool:
            for model in models:
                model.calls = 0
            for _ in range(4):
                await asked.candidates(recent_article_ids=[1])
            return all(model.calls for model in models)

        await asked.until(both_are_asked)
        for model in models:
            model.calls, model.delay_seconds = 0, 0.3
        calls = [asyncio.create_task(asked.candidates(recent_article_ids=[1])) for _ in range(6)]

        async def all_are_under_way() -> bool:
            return sum(model.calls for model in models) >= 6

        await asked.until(all_are_under_way)
        records["model.test"] = ["127.0.0.1"]
        answers = await asyncio.gather(*calls)
    assert {answer.source for answer in answers} == {pb2.SOURCE_PERSONALIZED}


async def test_short_deadlines_of_one_caller_take_nothing_from_others(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel()], faiss=[ScriptedFaiss()], poll_seconds=60
    )
    await asked.until_serving()
    asked.model.delay_seconds = 0.3
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    for _ in range(5):
        hasty = await asked.stub.GetCandidates(request, timeout=0.25)
        assert hasty.source == pb2.SOURCE_POPULAR
    assert (await asked.stub.GetCandidates(request, timeout=2)).source == pb2.SOURCE_PERSONALIZED


async def with_two_models(start_recommender, **settings):
    """Start with two model servers, and return once both are asked in turns."""
    models = [ScriptedModel(), ScriptedModel()]
    asked = await start_recommender(models=models, faiss=[ScriptedFaiss()], **settings)
    await asked.until_serving()

    async def both_are_asked() -> bool:
        await asked.candidates(recent_article_ids=[1])
        return all(model.calls > 2 for model in models)

    await asked.until(both_are_asked)
    for model in models:
        model.calls = 0
    return asked, models


async def test_one_of_two_that_hangs_costs_no_answer_and_soon_no_time(start_recommender):
    asked, models = await with_two_models(start_recommender, poll_seconds=60)
    models[0].hang = True
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    for _ in range(12):
        answer = await asked.stub.GetCandidates(request, timeout=0.5)
        assert answer.source == pb2.SOURCE_PERSONALIZED
    asked_before = models[0].calls
    for _ in range(10):
        await asked.stub.GetCandidates(request, timeout=0.5)
    assert models[0].calls == asked_before


async def test_an_address_that_was_only_held_up_may_answer_before_the_one_asked_next(
    start_recommender,
):
    asked, models = await with_two_models(start_recommender, poll_seconds=60)
    models[0].hang = True
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    # Each of them is the first once; the second time longer than is usual after the first time.
    for turn, models[1].delay_seconds in ((1, 0.2), (2, 0.4)):
        answer = await asked.stub.GetCandidates(request, timeout=1.0)
        assert answer.source == pb2.SOURCE_PERSONALIZED
        assert [model.calls for model in models] == [turn, turn]


async def test_a_slow_address_that_answers_polls_is_tried_ever_more_rarely(start_recommender):
    asked, models = await with_two_models(start_recommender)
    models[0].delay_seconds = 5.0
    loop = asyncio.get_running_loop()
    end = loop.time() + 2.5
    while loop.time() < end:
        request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
        answer = await asked.stub.GetCandidates(request, timeout=0.2)
        assert answer.source == pb2.SOURCE_PERSONALIZED
    # Those of a twentieth of a second to notice, each for 5 ms or more until the other is asked;
    # then once after a quarter of a second, a half, and each second.
    assert 3 <= models[0].calls <= 14


@pytest.mark.parametrize("cut", ["counts", "ids", "scores"])
async def test_a_malformed_search_answer_steps_down(asked, cut):
    asked.faiss.cut = cut
    answer = await asked.candidates(recent_article_ids=[1])
    assert answer.fallback_reason == pb2.FALLBACK_REASON_SEARCH_UNAVAILABLE


async def test_a_model_answer_for_another_number_of_rows_steps_down(asked):
    asked.model.known_rows = 3
    answer = await asked.candidates(recent_article_ids=[1])
    assert answer.fallback_reason == pb2.FALLBACK_REASON_MODEL_UNAVAILABLE


@pytest.mark.parametrize("cut", ["counts", "popular"])
async def test_a_malformed_answer_during_a_proof_does_not_end_the_recommender(
    start_recommender, cut
):
    asked = await start_recommender(models=[ScriptedModel()], faiss=[ScriptedFaiss(cut=cut)])
    with pytest.raises(grpc.aio.AioRpcError):
        await asked.candidates(recent_article_ids=[1])
    asked.faiss.cut = None
    await asked.until_serving()


async def test_a_proof_that_hangs_keeps_nobody_from_being_pinned(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])],
        faiss=[ScriptedFaiss(releases=[2, 1], hanging_proofs=frozenset({2}))],
    )
    async with asyncio.timeout(2):
        await asked.until_serving()
    assert (await asked.candidates(recent_article_ids=[1])).release == 1


async def test_a_named_release_without_a_holder_is_refused(asked):
    asked.model.releases = []

    async def refused() -> bool:
        try:
            await asked.candidates(recent_article_ids=[1], release=1)
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.FAILED_PRECONDITION
        return False

    await asked.until(refused)


async def test_as_many_histories_as_calls_are_allowed_can_be_read_at_once(asked):
    await asked.view("crowd", 1)
    calls = [asked.candidates(user_id="crowd", limit=1) for _ in range(250)]
    answers = await asyncio.gather(*calls)
    assert {answer.source for answer in answers} == {pb2.SOURCE_PERSONALIZED}


async def test_a_redis_that_hangs_soon_costs_no_time(asked, shared_redis):
    await asked.view("patient", 1)
    shared_redis.process.send(signal.SIGSTOP)
    try:
        request = pb2.GetCandidatesRequest(user_id="patient")
        for _ in range(5):
            answer = await asked.stub.GetCandidates(request, timeout=0.25)
            assert answer.fallback_reason == pb2.FALLBACK_REASON_HISTORY_UNAVAILABLE
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(10):
            await asked.stub.GetCandidates(request, timeout=0.5)
        assert loop.time() - started < 0.8  # one may be let through to try
    finally:
        shared_redis.process.send(signal.SIGCONT)

    async def recovered() -> bool:
        answer = await asked.stub.GetCandidates(request, timeout=0.5)
        return answer.source == pb2.SOURCE_PERSONALIZED

    await asked.until(recovered)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("side", ["model", "faiss"])
async def test_a_release_that_is_gone_since_the_last_poll_costs_no_answer(
    start_recommender, side, replicas
):
    backends = {
        "model": [ScriptedModel(releases=[2, 1]) for _ in range(replicas)],
        "faiss": [ScriptedFaiss(releases=[2, 1]) for _ in range(replicas)],
    }
    asked = await start_recommender(
        models=backends["model"], faiss=backends["faiss"], poll_seconds=60
    )
    await asked.until_serving()

    async def newest_is_pinned() -> bool:
        return (await asked.candidates(recent_article_ids=[5])).release == 2

    await asked.until(newest_is_pinned)
    for backend in backends[side]:
        backend.releases = [1]
    for _ in range(3):
        answer = await asked.candidates(recent_article_ids=[5], limit=2)
        assert answer.source == pb2.SOURCE_PERSONALIZED
        assert answer.release == 1
        assert list(answer.article_ids) == right_answer(1, 5, 2).tolist()
    for backend in backends[side]:
        backend.releases = []
    answer = await asked.candidates(recent_article_ids=[5], limit=2)
    assert answer.fallback_reason == pb2.FALLBACK_REASON_NO_COMMON_RELEASE


async def test_where_little_time_is_left_one_call_gets_all_of_it(start_recommender):
    models = [ScriptedModel(delay_seconds=0.15), ScriptedModel(delay_seconds=0.15)]
    asked = await start_recommender(models=models, faiss=[ScriptedFaiss()], poll_seconds=60)
    await asked.until_serving()
    for _ in range(20):  # by now it is known how long they take
        await asked.candidates(recent_article_ids=[1])
    for model in models:
        model.calls = 0
    # Four fifths are for backends, so half of it is less than the models take.
    request = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1])
    answer = await asked.stub.GetCandidates(request, timeout=0.3)
    assert answer.source == pb2.SOURCE_PERSONALIZED
    assert sum(model.calls for model in models) == 1
