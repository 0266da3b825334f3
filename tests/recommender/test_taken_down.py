"""Taken-down articles are in no POPULAR answer, which no index is asked for."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2

from recommender.backends import GoldenHistory
from recommender.domain import Ranking
from recommender.popular import AllowedPopular, PopularArticles, PopularList
from recommender.tracker import _objection
from tests.support.backends import POPULAR, REGION, REGION_POPULAR, ScriptedFaiss, ScriptedModel


async def popular(asked, **fields):
    answer = await asked.candidates(**fields)
    return list(answer.article_ids)


async def test_what_a_faiss_server_says_is_taken_down_is_not_popular_until_it_is_taken_back(
    start_recommender,
):
    servers = [ScriptedFaiss(), ScriptedFaiss()]
    asked = await start_recommender(models=[ScriptedModel()], faiss=servers)
    await asked.until_serving()
    listed = await popular(asked, user_id="new", limit=5)
    assert listed == POPULAR[:5].tolist()
    gone = {listed[0], listed[3], int(REGION_POPULAR[0])}
    servers[0].take_down(*gone)

    async def is_gone():
        return not gone & set(await popular(asked, user_id="new", limit=5))

    await asked.until(is_gone)
    assert (
        await popular(asked, user_id="new", limit=5)
        == [article for article in POPULAR.tolist() if article not in gone][:5]
    )
    regional = await popular(asked, user_id="new", region_id=REGION, limit=3)
    assert not gone & set(regional)
    # One that follows late brings nothing back.
    servers[1].take_down(listed[1])

    async def both():
        return not (gone | {listed[1]}) & set(await popular(asked, user_id="new", limit=5))

    await asked.until(both)
    for server in servers:
        server.take_down()

    async def is_back():
        return await popular(asked, user_id="new", limit=5) == listed

    await asked.until(is_back)


@dataclass
class TakingDown(ScriptedFaiss):
    """Of each search the best five are taken down just before."""

    async def Search(self, request, context):  # noqa: N802 - the contract's name
        response = await super().Search(request, context)
        ids = np.frombuffer(response.ids, "<i8").reshape(len(response.counts), -1)
        self.take_down(*ids[:, :5].ravel())
        left = ids[:, 5:]
        return faiss_pb2.SearchResponse(
            release=response.release,
            counts=[left.shape[1]] * len(left),
            ids=left.tobytes(),
            scores=np.zeros(left.size, "<f4").tobytes(),
        )


async def test_what_is_taken_down_during_a_proof_refuses_no_release(start_recommender):
    asked = await start_recommender(models=[ScriptedModel()], faiss=[TakingDown()], poll_seconds=60)
    await asked.until_serving()


def test_a_pair_is_proven_by_what_is_not_taken_down():
    golden = GoldenHistory((5, 3), None, np.arange(20), 0.9)
    answered = [Ranking(np.arange(6, 26), np.zeros(20, np.float32))]
    assert _objection([golden], answered, np.arange(6)) is None
    assert "70% of the expected" in str(_objection([golden], answered, np.arange(0)))
    assert _objection([golden], answered, np.arange(50)) is None


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 60)))
def test_lists_without_what_is_gone_are_the_rest_in_order(listed, gone):
    ids = np.array(sorted(listed, key=lambda article: article * 7 % 41), np.int64)
    one = PopularList(ids, np.arange(len(ids), dtype=np.float32), {"a": ids * 2})
    left = one.without(np.array(sorted(gone) or [-1], np.int64))
    assert left.ids.tolist() == [article for article in ids.tolist() if article not in gone]
    assert left.attributes["a"].tolist() == (left.ids * 2).tolist()


def test_lists_are_made_anew_only_when_something_changed():
    ids = np.arange(5)
    lists = PopularArticles(PopularList(ids, ids.astype(np.float32), {}), {})
    allowed, gone = AllowedPopular(), np.array([2])
    first = allowed.of(1, lists, gone)
    assert allowed.of(1, lists, gone) is first
    assert allowed.of(1, lists, np.array([3])) is not first
    for release in range(2, 9):
        allowed.of(release, lists, gone)
    assert len(allowed._made) <= 3
