"""The history in a real Redis: idempotent, right for late events, bounded, expiring."""

import asyncio
import logging
from contextlib import suppress
from itertools import count

import pytest
import redis.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recommender.domain import HISTORY_LENGTH, View
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis
from service_runtime.errors import BackendUnavailableError

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


@pytest.mark.parametrize("member", ["abc", str(2**63), str(-(2**63) - 1)])
async def test_a_key_that_holds_no_article_ids_fails_its_own_user_only(
    history, shared_redis, member
):
    spoilt, sound = next(users), next(users)
    await history.record(sound, [View(1, 10)], 1)
    client = connect_redis(shared_redis.url)
    await client.zadd(f"recsys:history:{{{spoilt}}}", {member: 5})
    await client.aclose()
    answers = await history.article_ids([spoilt, sound], 1)
    assert isinstance(answers[0], BackendUnavailableError)
    assert answers[1] == [1]
    with pytest.raises(BackendUnavailableError, match="no int64"):
        await history.views(spoilt, 1)


async def test_a_key_of_another_type_closes_redis_to_nobody_and_is_told_without_its_user(
    history, shared_redis
):
    spoilt, sound = next(users), next(users)
    client = connect_redis(shared_redis.url)
    await client.set(f"recsys:history:{{{spoilt}}}", "no sorted set")
    await client.aclose()
    for _ in range(6):  # more than open the breaker
        for asked in (
            history.article_ids([spoilt], 1),
            history.views(spoilt, 1),
            history.record(spoilt, [View(1, 10)], 1),
        ):
            with pytest.raises(BackendUnavailableError, match=r"^history: WRONGTYPE") as told:
                await asked
            assert spoilt not in str(told.value)
    await history.record(sound, [View(1, 10)], 1)
    answers = await history.article_ids([spoilt, sound], 1)
    assert isinstance(answers[0], BackendUnavailableError)
    assert answers[1] == [1]


class Broken:
    """A client of Redis whose every command raises this; None: it answers."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def zrange(self, *_: object, **__: object) -> list[tuple[bytes, float]]:
        if self.error is not None:
            raise self.error
        return [(b"1", 1.0)]


async def test_why_redis_fails_is_told_once_and_when_it_is_over(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "recommender.trouble")
    client = Broken()
    history = RedisHistory(client, ttl_seconds=60)
    monkeypatch.setattr(history._breaker, "_open_seconds", 0.0)

    async def asked_often(error: Exception | None) -> None:
        client.error = error
        for _ in range(6):
            with suppress(BackendUnavailableError):
                await history.views("u", 1)

    await asked_often(redis.exceptions.ConnectionError("Error 111 connecting to redis:6379"))
    await asked_often(TimeoutError())
    await asked_often(None)
    client.error = TimeoutError()
    with pytest.raises(BackendUnavailableError):
        await history.views("u", 1)  # a single one opens nothing, and is not told
    assert caplog.messages == [
        "histories in Redis: Error 111 connecting to redis:6379",
        "histories in Redis: no answer in time",
        "histories in Redis: well again after: no answer in time",
    ]
