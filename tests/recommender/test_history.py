"""The history in a real Redis: idempotent, right for late events, bounded, expiring."""

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recommender.domain import HISTORY_LENGTH, View
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis

users = (f"history-user-{number}" for number in count())


@pytest.fixture
async def history(shared_redis):
    client = connect_redis(shared_redis.url)
    yield RedisHistory(client, ttl_seconds=60)
    await client.aclose()


def newest_views(views: list[View]) -> list[View]:
    """What a history must hold: each article once at its latest time, the newest 50."""
    latest: dict[int, int] = {}
    for view in views:
        latest[view.article_id] = max(view.viewed_at_ms, latest.get(view.article_id, 0))
    # Redis orders equal scores by the text of the member.
    ordered = sorted(latest.items(), key=lambda pair: (pair[1], str(pair[0])), reverse=True)
    return [View(article, at) for article, at in ordered[:HISTORY_LENGTH]]


async def test_a_repeated_view_changes_nothing(history):
    user = next(users)
    await history.record(user, [View(1, 10), View(2, 20)], 1)
    await history.record(user, [View(1, 10)], 1)
    assert await history.views(user, 1) == [View(2, 20), View(1, 10)]


async def test_a_late_view_does_not_make_an_article_older(history):
    user = next(users)
    await history.record(user, [View(1, 30), View(2, 20)], 1)
    await history.record(user, [View(1, 5)], 1)
    assert await history.article_ids([user], 1) == [[1, 2]]


async def test_a_history_expires(history, shared_redis):
    user = next(users)
    await history.record(user, [View(1, 30)], 1)
    client = connect_redis(shared_redis.url)
    assert 0 < await client.pttl(f"recsys:history:{{{user}}}") <= 60_000
    await client.aclose()


async def test_concurrent_writers_lose_nothing(history):
    user = next(users)
    await asyncio.gather(
        *(history.record(user, [View(article, article)], 5) for article in range(1, 41))
    )
    assert await history.article_ids([user], 1) == [list(range(40, 0, -1))]


batches = st.lists(
    st.lists(st.builds(View, st.integers(0, 80), st.integers(0, 1000)), min_size=1, max_size=60),
    max_size=6,
)


@given(batches)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_arrives_in_whatever_order_the_newest_fifty_are_kept(shared_redis, given_batches):
    async def check() -> None:
        client = connect_redis(shared_redis.url)
        history = RedisHistory(client, ttl_seconds=60)
        user = next(users)
        seen: list[View] = []
        for batch in given_batches:
            await history.record(user, batch, 5)
            seen += batch
            # Trimming between batches forgets for good, so the check is against what was left.
            seen = newest_views(seen)
            assert await history.views(user, 5) == seen
        await client.aclose()

    asyncio.run(check())
