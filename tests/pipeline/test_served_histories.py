"""The histories that a run works with are those that the recommender's Redis would hold."""

import numpy as np
import pytest

from local_stack.redis import start_redis
from local_stack.views import last_views
from pipeline.holdout import HoldOut
from pipeline.prepared import UserSample
from pipeline.windows import history_windows
from recommender.domain import View
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis
from tests.support.collecting import collect

ONE_AND_TWO = [1, 1, 1, 2, 1, 2]


def views_of_users():
    """Users with few articles and many views, many of both, hardly any; oldest first."""
    random = np.random.default_rng(0)
    shapes = ((3, 40), (45, 300), (60, 300), (400, 90), (10, 2), (5, 1))
    drawn = {f"u{n}": random.integers(a, size=c).tolist() for n, (a, c) in enumerate(shapes)}
    return {"same": ONE_AND_TWO, **drawn}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    lines = [
        f"{user},{article},{at}"
        for user, articles in views_of_users().items()
        for at, article in enumerate(articles)
    ]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    collected = collect(folder / "events.csv", None, folder / "collect")
    (shard,) = collected.histories
    # Whole users, as in the sample of them that preprocessing leaves.
    return collected.directory, UserSample.read(shard, HoldOut("last-view"))


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("redis")
    process, url = start_redis(folder, folder / "redis.log")
    yield url
    process.stop()


async def held_in_redis(url, articles):
    """Record these views (oldest first) and read the history back, newest first."""
    async with connect_redis(url) as client:
        await client.flushall()
        history = RedisHistory(client, 3600)
        if articles:
            views = [View(article, at * 1000) for at, article in enumerate(articles)]
            await history.record("u", views, 5)
        (held,) = await history.article_ids(["u"], 5)
        return held


def without_padding(row):
    return row[row >= 0].tolist()


async def test_histories_of_evaluation_goldens_and_training_are_what_redis_holds(log, redis_url):
    _, sample = log
    everyone = np.arange(len(sample.targets))
    before, served = sample.test_histories(everyone), sample.served_histories(everyone)
    by_user = dict(sorted(views_of_users().items()))
    assert len(by_user) == len(everyone)
    for user, articles in enumerate(by_user.values()):
        known_before = articles[:-1] if len(articles) > 1 else articles
        assert without_padding(served[user]) == await held_in_redis(redis_url, articles)
        assert without_padding(before[user]) == await held_in_redis(redis_url, known_before)
        begin = sample.offsets[user]
        for place in {1, len(articles) // 2, len(articles) - 1} - {0}:
            row = history_windows(
                sample.article_ids,
                sample.repeats,
                np.array([begin]),
                np.array([begin + min(place, len(known_before))]),
                -1,
            )[0]
            assert without_padding(row) == await held_in_redis(redis_url, articles[:place])


async def test_the_views_that_the_demo_records_leave_redis_as_all_views_would(log, redis_url):
    collected, _ = log
    for user in last_views(collected, 50):
        held = await held_in_redis(redis_url, views_of_users()[user.user_id])
        assert user.article_ids[::-1] == held


def test_repeats_of_two_articles_are_a_history_of_two(log):
    _, sample = log
    assert without_padding(sample.served_histories(np.array([0]))[0]) == [2, 1]
