"""What is taken down, in Redis: read by all, never lost, as many as can be told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from faiss_server.command import run
from faiss_server.taken_down import MOST_TAKEN_DOWN, TakenDown
from faiss_server.taken_down_redis import ARTICLES_KEY, STATE_KEY, RedisTakeDowns
from local_stack.redis import start_redis
from service_runtime.errors import BackendUnavailableError, InvalidRequestError
from tests.support.redis_users import rules_of


@pytest.fixture
def takes(client: Any, redis_url: str) -> RedisTakeDowns:
    return RedisTakeDowns(redis_url)


def ids(taken: TakenDown) -> list[int]:
    return taken.article_ids.tolist()


def test_the_user_of_the_deployment_may_do_what_take_downs_need_and_no_more(
    client: Any, redis_url: str, tmp_path: Path
) -> None:
    client.execute_command("ACL", "SETUSER", "faiss-server", *rules_of("faiss-server"), ">s")
    client.execute_command("ACL", "LOG", "RESET")
    file = tmp_path / "credentials"
    file.write_text("faiss-server:s\n")
    takes = RedisTakeDowns(redis_url, credentials_file=file)
    known = takes.change(takes.change(TakenDown(), [7, 3], ()), (), [3])
    client.flushall()
    assert ids(takes.read(known)) == [7]  # given back
    assert client.acl_log() == []
    with redis.Redis.from_url(redis_url.replace("redis://", "redis://faiss-server:s@")) as other:
        for command in (["ZREVRANGE", "recsys:history:{u}", "0", "1"], ["DEL", ARTICLES_KEY]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                other.execute_command(*command)
    client.execute_command("ACL", "DELUSER", "faiss-server")
    with pytest.raises(BackendUnavailableError, match=r"(?i)invalid username"):
        RedisTakeDowns(redis_url, credentials_file=file).read(TakenDown())


def test_a_cluster_is_followed_and_one_that_is_away_is_told(tmp_path: Path) -> None:
    process, url = start_redis(tmp_path, tmp_path / "redis.log", "--cluster-enabled", "yes")
    try:
        with redis.Redis.from_url(url) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            process.wait_until(
                lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"), 10
            )
        takes = RedisTakeDowns(url, cluster=True)
        known = takes.change(TakenDown(), [7], ())
        assert ids(known) == [7]
    finally:
        process.stop()
    with pytest.raises(BackendUnavailableError):
        takes.read(known)
    with pytest.raises(BackendUnavailableError):
        RedisTakeDowns(url, cluster=True)


def test_a_change_is_read_by_others_and_nothing_is_read_twice(takes: RedisTakeDowns) -> None:
    first = takes.change(TakenDown(), [7, 3, 7], ())
    assert ids(first) == [3, 7]
    other = takes.read(TakenDown())
    assert (other.life, other.version, ids(other)) == (first.life, first.version, [3, 7])
    assert takes.read(other) is other
    after = takes.change(other, (), [3, 99])
    assert ids(after) == [7]
    assert ids(takes.read(first)) == [7]


def test_a_redis_that_lost_everything_is_given_it_back_even_after_others_wrote(
    takes: RedisTakeDowns, client: Any
) -> None:
    known = takes.change(TakenDown(), [1, 2], ())
    client.flushall()
    assert ids(takes.change(TakenDown(), [9], ())) == [9]  # by someone who knows nothing
    assert ids(takes.read(known)) == [1, 2, 9]
    assert ids(takes.read(TakenDown())) == [1, 2, 9]


def test_what_is_known_from_disk_alone_is_given_back_to_an_empty_redis_only(
    takes: RedisTakeDowns, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    known = replace(takes.change(TakenDown(), [1, 2], ()), from_disk=True)
    client.flushall()
    assert ids(takes.change(TakenDown(), [9], ())) == [9]
    assert ids(takes.read(known)) == [9]
    assert caplog.text == ""
    client.flushall()
    assert ids(takes.read(known)) == [1, 2]
    assert "2 articles are given back" in caplog.text


def lost_change(takes: RedisTakeDowns, client: Any) -> TakenDown:
    """Take 1 down, then 2, of which Redis does not know any more; what was known then."""
    takes.change(TakenDown(), [1], ())
    copy = client.hgetall(STATE_KEY)
    known = takes.change(TakenDown(), [2], ())
    client.srem(ARTICLES_KEY, 2)
    client.hset(STATE_KEY, mapping=copy)
    return known


def test_a_redis_that_fell_back_to_an_older_copy_is_given_back_what_it_lost(
    takes: RedisTakeDowns, client: Any
) -> None:
    known = lost_change(takes, client)
    assert ids(takes.read(known)) == [1, 2]
    assert takes.read(TakenDown()).version > known.version


def test_a_redis_that_lost_a_change_and_took_another_since_is_given_back_what_it_lost(
    takes: RedisTakeDowns, client: Any
) -> None:
    known = lost_change(takes, client)
    other = takes.change(TakenDown(), [3], ())
    assert (other.life, other.version) == (known.life, known.version)
    assert ids(takes.read(known)) == [1, 2, 3]
    assert ids(takes.read(other)) == [1, 2, 3]


def test_more_than_can_be_told_are_refused(takes: RedisTakeDowns) -> None:
    known = takes.change(TakenDown(), range(MOST_TAKEN_DOWN), ())
    with pytest.raises(InvalidRequestError, match="200001 articles would be taken down"):
        takes.change(known, [MOST_TAKEN_DOWN], ())
    assert len(ids(takes.change(known, (), [5]))) == MOST_TAKEN_DOWN - 1


def test_files_of_ids_are_taken_down_and_back(
    tmp_path: Path, client: Any, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sold.txt"
    file.write_text("5\n\n  6\n")
    command: Callable[..., int] = lambda what: run([what, str(file), "--redis-url", redis_url])  # noqa: E731
    assert command("remove") == 0
    assert client.smembers(ARTICLES_KEY) == {b"5", b"6"}
    assert command("restore") == 0
    assert "2 articles taken back; 0 are taken down now" in capsys.readouterr().out
    file.write_text("5\nsix\n")
    assert command("remove") == 1
    assert "line 2: 'six' is no article id" in " ".join(capsys.readouterr().err.split())
