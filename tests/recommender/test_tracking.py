"""Which release is answered from: both sides must hold it and belong together."""

import asyncio
import logging

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from recommender.addresses import Addresses, Target, parse_targets, system_look_up
from recommender.config import RecommenderSettings
from recommender.split import Split, release_of
from recommender.tracker import choose_release
from service_runtime.errors import StartupError
from service_runtime.settings import load_settings
from tests.support.backends import ScriptedFaiss, ScriptedModel, listening, right_answer
from tests.support.dns import dns_server

holders = st.dictionaries(st.integers(1, 6), st.integers(1, 3), max_size=4)


@given(holders, holders, st.integers(0, 3), st.integers(0, 3))
def test_the_choice_is_held_by_both_sides_and_everywhere_if_any_is(models, indexes, m, i):
    common = models.keys() & indexes.keys()
    everywhere = [r for r in common if models[r] >= m and indexes[r] >= i]
    chosen = choose_release(models, indexes, m, i)
    assert chosen == max(everywhere, default=max(common, default=None))


async def test_a_release_that_only_one_side_holds_is_not_used(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])], faiss=[ScriptedFaiss(releases=[1])]
    )
    await asked.until_serving()
    answer = await asked.candidates(recent_article_ids=[5])
    assert answer.release == 1
    asked.faiss.releases = [2, 1]

    async def moved_on() -> bool:
        answer = await asked.candidates(recent_article_ids=[5], limit=2)
        expected = right_answer(answer.release, 5, 2).tolist()
        assert list(answer.article_ids) == expected
        return answer.release == 2

    await asked.until(moved_on)


async def test_a_withdrawn_release_is_stepped_back_from(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])], faiss=[ScriptedFaiss(releases=[2, 1])]
    )
    await asked.until_serving()
    asked.faiss.releases = [1]

    async def stepped_back() -> bool:
        return (await asked.candidates(recent_article_ids=[5])).release == 1

    await asked.until(stepped_back)


async def test_a_model_that_does_not_belong_to_its_index_is_never_pinned(start_recommender):
    wrong = ScriptedModel(releases=[2, 1], speaks_for=1)
    asked = await start_recommender(models=[wrong], faiss=[ScriptedFaiss(releases=[2, 1])])
    await asked.until_serving()
    assert (await asked.candidates(recent_article_ids=[5])).release == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(recent_article_ids=[5], release=2)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_lost_backends_are_noticed_and_found_again(start_recommender):
    model, faiss = ScriptedModel(), ScriptedFaiss()
    asked = await start_recommender(models=[model], faiss=[ScriptedFaiss()])
    await asked.until_serving()
    faiss.releases = asked.faiss.releases
    asked.faiss.releases = []

    async def stepped_down() -> bool:
        answer = await asked.candidates(recent_article_ids=[5])
        return answer.fallback_reason == pb2.FALLBACK_REASON_NO_COMMON_RELEASE

    await asked.until(stepped_down)
    asked.faiss.releases = [1]

    async def personalized() -> bool:
        return (await asked.candidates(recent_article_ids=[5])).source == pb2.SOURCE_PERSONALIZED

    await asked.until(personalized)


@given(st.text(), st.floats(0, 1), st.floats(0, 1), st.sets(st.integers(1, 5)))
def test_a_split_is_stable_monotonic_and_stays_within_what_is_in_service(user, less, more, held):
    less, more = sorted((less, more))
    chosen = {share: release_of(user, Split(3, share, 0), held) for share in (0.0, less, more, 1.0)}
    if 3 not in held or min(held) == 3:
        assert set(chosen.values()) == {None}
        return
    assert chosen[0.0] == max(release for release in held if release < 3)
    assert chosen[1.0] == 3
    assert chosen[more] == 3 or chosen[less] != 3  # a larger share keeps those chosen before


def test_a_split_sends_its_share():
    users = [f"user {number}" for number in range(20_000)]
    chosen = [release_of(user, Split(2, 0.1, 0), {1, 2}) for user in users]
    assert 0.09 < chosen.count(2) / len(users) < 0.11


async def test_a_split_is_followed_and_completed(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])], faiss=[ScriptedFaiss(releases=[2, 1])]
    )
    await asked.until_serving()
    users = [f"split-{number}" for number in range(60)]

    async def releases() -> dict[str, int]:
        return {
            user: (await asked.candidates(user_id=user, recent_article_ids=[5], limit=1)).release
            for user in users
        }

    split = faiss_pb2.Split(release=2, share=0.5, changed_at_ms=1)
    asked.faiss.split = split

    async def divided() -> bool:
        return set((await releases()).values()) == {1, 2}

    await asked.until(divided)
    expected = {user: release_of(user, Split(2, 0.5, 1), {1, 2}) for user in users}
    assert await releases() == expected
    asked.faiss.split = faiss_pb2.Split(release=2, share=1.0, changed_at_ms=2)

    async def completed() -> bool:
        return set((await releases()).values()) == {2}

    await asked.until(completed)


async def test_faiss_servers_are_told_what_is_answered_from_and_what_is_refused(start_recommender):
    asked = await start_recommender(
        models=[ScriptedModel(releases=[2, 1])], faiss=[ScriptedFaiss(releases=[2, 1])]
    )
    await asked.until_serving()

    async def is_told(in_use: set[int], refused: set[int]) -> bool:
        told = asked.faiss.last_status
        return (set(told.in_use), set(told.refused)) == (in_use, refused)

    await asked.until(lambda: is_told({2}, set()))
    for share, in_use in ((0.5, {1, 2}), (0.0, {1}), (1.0, {2})):
        asked.faiss.split = faiss_pb2.Split(release=2, share=share, changed_at_ms=int(share * 10))
        if share == 0.0:
            asked.faiss.split.changed_at_ms = 7
        await asked.until(lambda in_use=in_use: is_told(in_use, set()))
    asked.model.speaks_for = 2
    for backend in (asked.model, asked.faiss):
        backend.releases = [3, 2, 1]
    await asked.until(lambda: is_told({2}, {3}))


async def test_a_server_that_starts_later_is_found(start_recommender):
    late = ScriptedFaiss()
    async with listening(late):
        pass  # it has a port now, and nobody listens there
    asked = await start_recommender(models=[ScriptedModel()], faiss=[], faiss_servers=late.address)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.candidates(recent_article_ids=[5])
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    async with listening(late):
        await asked.until_serving()
        answer = await asked.candidates(recent_article_ids=[5])
        assert answer.source == pb2.SOURCE_PERSONALIZED


def test_targets_are_host_and_port():
    assert parse_targets("a:1, b.example:65535") == (Target("a", 1), Target("b.example", 65535))
    for wrong in ("", "a", "a:", ":1", "a:0", "a:65536", "a:1,,b:2", "a:x"):
        with pytest.raises(ValueError, match="is not host:port"):
            parse_targets(wrong)


@pytest.mark.parametrize("host", ["models..internal", ".internal", "a" * 64])
def test_a_host_that_can_be_no_name_is_refused_with_its_setting(monkeypatch, host):
    monkeypatch.setenv("RECOMMENDER_MODEL_SERVERS", f"models.internal.:8500, {host}:8500")
    with pytest.raises(StartupError, match=f"RECOMMENDER_MODEL_SERVERS: .*{host}:8500' has no"):
        load_settings(RecommenderSettings)


async def test_names_become_addresses():
    addresses = Addresses("part", parse_targets("localhost:5"), system_look_up)
    assert "127.0.0.1:5" in await addresses.now()
    with pytest.raises(OSError, match=r"no\.such\.host\.invalid"):
        await system_look_up("no.such.host.invalid")


async def test_a_name_that_does_not_resolve_keeps_what_it_had_and_hides_no_other(caplog):
    caplog.set_level(logging.INFO, "recommender.trouble")
    records = {"a": ["1.1.1.1", "::1"], "b": ["2.2.2.2"]}

    async def look_up(host: str) -> list[str]:
        if host not in records:
            raise OSError(f"cannot resolve {host}")
        return records[host]

    addresses = Addresses("part", parse_targets("c:3,a:1,b:2"), look_up)
    assert await addresses.now() == {"1.1.1.1:1", "[::1]:1", "2.2.2.2:2"}
    del records["b"]
    records["a"] = ["4.4.4.4"]
    for _ in range(3):
        assert await addresses.now() == {"4.4.4.4:1", "2.2.2.2:2"}
    records["b"] = ["5.5.5.5"]
    assert await addresses.now() == {"4.4.4.4:1", "5.5.5.5:2"}
    records.clear()
    assert await addresses.now() == {"4.4.4.4:1", "5.5.5.5:2"}
    assert caplog.messages == [
        "part: cannot resolve c",
        "part: cannot resolve b",
        "part: well again after: cannot resolve b",
        "part: cannot resolve a",
        "part: cannot resolve b",
    ]


async def test_backends_come_and_go_with_their_dns_records(start_recommender):
    """Two servers on one port of two loopback addresses, behind one name."""
    first, second = ScriptedFaiss(), ScriptedFaiss(host="127.0.0.2")
    async with dns_server({"faiss.test": ["127.0.0.1"]}) as (dns, records), listening(first):
        second.port = first.port
        async with listening(second):
            asked = await start_recommender(
                models=[ScriptedModel()],
                faiss=[],
                faiss_servers=f"faiss.test:{first.port}",
                dns_server=dns,
                resolve_seconds=0.02,
            )
            await asked.until_serving()
            first.searches.clear()
            await asked.candidates(recent_article_ids=[5])
            assert (len(first.searches), len(second.searches)) == (1, 0)

            async def only_the_second_is_asked() -> bool:
                first.searches.clear()
                second.searches.clear()
                await asked.candidates(recent_article_ids=[5])
                await asked.candidates(recent_article_ids=[5])
                return (len(first.searches), len(second.searches)) == (0, 2)

            records["faiss.test"] = ["127.0.0.1", "127.0.0.2"]
            await asked.until(lambda: is_asked(asked, second))
            records["faiss.test"] = ["127.0.0.2"]
            await asked.until(only_the_second_is_asked)
            del records["faiss.test"]  # a resolver that fails takes nothing away
            await asyncio.sleep(0.1)
            assert await only_the_second_is_asked()


async def is_asked(asked, server) -> bool:
    server.searches.clear()
    await asked.candidates(recent_article_ids=[5])
    await asked.candidates(recent_article_ids=[5])
    return bool(server.searches)
