import asyncio
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from recsys.faiss.v1 import faiss_service_pb2 as pb

from faiss_server import holder as holder_module
from faiss_server import server as server_module
from faiss_server.attributes import AttributeFilter
from faiss_server.config import FaissServerSettings
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.server import serve
from faiss_server.servicer import FaissServicer
from releases.manifest import Manifest
from releases.store import ReleaseStore
from tests.faiss_server.making import Made, exact_top, publish_release
from tests.faiss_server.serving import (
    NOT_SERVING,
    SERVED,
    SERVING,
    RunningFaissServer,
    good_search,
    language_filter,
    packed,
    random_vectors,
    request_of,
    rows_of_response,
    running,
    until_health,
)

A, B, C = SERVED, SERVED + 1, SERVED + 2


async def test_a_search_answers_the_exact_articles_of_each_vector(
    server: RunningFaissServer, published: Made
) -> None:
    asked = random_vectors(1, 3)
    best, _ = exact_top(published, asked[1], 30)
    response = await server.faiss.Search(
        request_of(
            A,
            asked,
            40,
            nprobe=16,
            excluded_ids=[b"", packed(*best, *best, 5), packed(6)],
            filters=[
                language_filter(0, 1, 2),
                language_filter(2, operator=pb.FILTER_OPERATOR_NOT_IN),
            ],
        )
    )
    filters = frozenset(
        {
            AttributeFilter("language", frozenset({0, 1, 2}), negated=False),
            AttributeFilter("language", frozenset({2}), negated=True),
        }
    )
    assert response.release == A
    rows = rows_of_response(response)
    for vector, excluded, (ids, scores) in zip(asked, [None, best, None], rows, strict=True):
        expected_ids, expected = exact_top(published, vector, 40, excluded, filters)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


async def test_vectors_come_in_the_order_asked_for(
    server: RunningFaissServer, published: Made
) -> None:
    first, second = published.article_ids[:2].tolist()
    response = await server.faiss.GetVectors(
        pb.GetVectorsRequest(release=A, article_ids=[3, second, first, 1, second])
    )
    assert response.release == A
    assert response.dimension == 8
    assert list(response.article_ids) == [second, first, second]
    assert list(response.missing_article_ids) == [3, 1]
    found = np.frombuffer(response.vectors, "<f4").reshape(3, 8)
    np.testing.assert_array_equal(found, published.vectors[[1, 0, 1]])
    none = await server.faiss.GetVectors(pb.GetVectorsRequest(release=A, article_ids=[3]))
    assert (none.vectors, none.dimension, list(none.missing_article_ids)) == (b"", 8, [3])


async def test_popular_articles_are_of_the_region_or_overall(
    server: RunningFaissServer, published: Made
) -> None:
    ordered = np.sort(published.article_ids)
    by_region = {}
    for region in (None, 3, 4):
        response = await server.faiss.GetPopular(pb.GetPopularRequest(release=A, region_id=region))
        assert response.release == A
        (by_region[region],) = response.lists
    assert not by_region[None].HasField("region_id")
    assert by_region[3].region_id == 3
    assert by_region[4] == by_region[None]
    np.testing.assert_array_equal(np.frombuffer(by_region[None].ids, "<i8"), ordered[:10])
    np.testing.assert_array_equal(np.frombuffer(by_region[3].ids, "<i8"), ordered[10:14])
    assert np.frombuffer(by_region[3].views, "<f4").tolist() == [40, 39, 38, 37]
    rows = np.argsort(published.article_ids)[10:14]
    assert {column.attribute for column in by_region[3].attributes} == set(published.attributes)
    for column in by_region[3].attributes:
        values = np.frombuffer(column.values, "<i8")
        np.testing.assert_array_equal(values, published.attributes[column.attribute][rows])


async def test_popular_articles_of_all_regions_start_with_the_overall_list(
    server: RunningFaissServer,
) -> None:
    request = pb.GetPopularRequest(release=A, all_regions=True)
    lists = (await server.faiss.GetPopular(request)).lists
    assert [popular.HasField("region_id") for popular in lists] == [False, True, True]
    assert [popular.region_id for popular in lists[1:]] == [3, 5]


async def test_status_describes_the_release_and_its_golden_histories(
    server: RunningFaissServer, published: Made
) -> None:
    answer = await server.faiss.GetStatus(pb.GetStatusRequest(golden_histories_of=A))
    (status,) = answer.releases
    assert status == pb.ReleaseStatus(
        release=A,
        state=pb.RELEASE_STATE_READY,
        article_count=700,
        dimension=8,
        index_type="IVF16,Flat",
        nprobe=3,
        recall_at_200=0.9,
        index_bytes=(published.home / "items.faiss").stat().st_size,
    )
    (golden,) = answer.golden_histories
    assert list(golden.history) == [1]
    assert not golden.HasField("region_id")
    assert list(golden.expected_article_ids) == [2]
    assert golden.min_overlap == 0.9
    for other in (None, 9):
        plain = await server.faiss.GetStatus(pb.GetStatusRequest(golden_histories_of=other))
        assert not plain.golden_histories


async def test_a_release_under_way_is_loading_and_unavailable(
    store: ReleaseStore, published: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    began = asyncio.Event()
    go_on = asyncio.Event()

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    async with running(store, tmp_path) as server:
        await asyncio.wait_for(began.wait(), 10)
        await until_health(server.channel, NOT_SERVING)
        (status,) = (await server.faiss.GetStatus(pb.GetStatusRequest())).releases
        assert (status.release, status.state) == (A, pb.RELEASE_STATE_LOADING)
        assert status.article_count == 700
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.faiss.Search(good_search())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert f"release {A} is still loading" in str(caught.value.details())
        go_on.set()
        await until_health(server.channel, SERVING, "recsys.faiss.v1.FaissService")
        await server.faiss.Search(good_search())


async def test_health_follows_the_releases(
    server: RunningFaissServer, store: ReleaseStore, tmp_path: Path
) -> None:
    await until_health(server.channel, SERVING)
    store.withdraw(A)
    await until_health(server.channel, NOT_SERVING)
    publish_release(store, tmp_path / "staging", B)
    await until_health(server.channel, SERVING)


async def test_a_withdrawal_reaches_health_and_status_while_another_release_is_loaded(
    server: RunningFaissServer, store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    began = asyncio.Event()
    go_on = asyncio.Event()

    def load(manifest: Manifest, root: Path) -> LoadedRelease:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return load_release(manifest, root)

    monkeypatch.setattr(holder_module, "load_release", load)
    await asyncio.to_thread(publish_release, store, tmp_path / "staging", B)
    await asyncio.wait_for(began.wait(), 10)
    await until_health(server.channel, SERVING)
    store.withdraw(A)
    async with asyncio.timeout(5):
        await until_health(server.channel, NOT_SERVING)
    (status,) = (await server.faiss.GetStatus(pb.GetStatusRequest())).releases
    assert (status.release, status.state) == (B, pb.RELEASE_STATE_LOADING)
    go_on.set()
    await until_health(server.channel, SERVING)


async def test_a_fault_in_what_health_follows_ends_the_server(
    store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(server_module, "_follow_health", fail)
    settings = FaissServerSettings(
        port=0, metrics_port=0, store=store.url, local_dir=tmp_path / "local"
    )
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(serve(settings, asyncio.Event()), 10)


async def test_a_full_server_refuses_searches_but_not_status(
    store: ReleaseStore, published: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    began = asyncio.Event()
    go_on = asyncio.Event()
    async with running(store, tmp_path, max_concurrent_calls=1) as server:
        await server.until_ready(A)

        def hold(*_: object, **__: object) -> Any:
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
            raise ReleaseRefusedError(RefusalReason.UNEXPECTED, "any fault")

        monkeypatch.setattr("faiss_server.service.FaissService._search", hold)
        first = server.faiss.Search(good_search(nprobe=1))  # never in the event loop
        await asyncio.wait_for(began.wait(), 10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.faiss.Search(good_search())
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.faiss.GetStatus(pb.GetStatusRequest())
        go_on.set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert "any fault" not in str(caught.value.details())


async def test_swapping_releases_under_load_fails_no_search_and_mixes_no_answers(
    server: RunningFaissServer, store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    releases = {A: published}
    asked = random_vectors(9, 4)
    done = asyncio.Event()
    answered: dict[int, int] = {}

    async def keep_searching() -> None:
        while not done.is_set():
            release = max(releases)
            response = await server.faiss.Search(request_of(release, asked, 20, nprobe=16))
            assert response.release == release
            for vector, (ids, _) in zip(asked, rows_of_response(response), strict=True):
                np.testing.assert_array_equal(ids, exact_top(releases[release], vector, 20)[0])
            answered[release] = answered.get(release, 0) + 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(keep_searching())
        for release in (B, C):
            made = await asyncio.to_thread(publish_release, store, tmp_path / "staging", release)
            await server.until_ready(release)
            releases[release] = made
        while answered.get(C, 0) < 5:
            await asyncio.sleep(0.005)
        done.set()
    status = await server.faiss.GetStatus(pb.GetStatusRequest())
    assert [held.release for held in status.releases] == [C, B]
    assert answered.keys() == {A, B, C}


async def test_metrics_tell_of_releases_and_searches(server: RunningFaissServer) -> None:
    await server.faiss.Search(good_search())

    def read() -> str:
        with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as page:
            text: str = page.read().decode()
            return text

    text = await asyncio.to_thread(read)
    for line in (
        'recsys_release{kind="index"} 1.700000201e+09',
        'recsys_releases_resident{state="ready"} 1.0',
        'recsys_stage_duration_seconds_count{stage="search"} 1.0',
        'recsys_release_refused_total{reason="golden_queries"} 0.0',
        "recsys_store_poll_failures_total 0.0",
    ):
        assert line in text


def test_every_method_of_the_contract_is_implemented() -> None:
    service = pb.DESCRIPTOR.services_by_name["FaissService"]
    assert len(service.methods) == 6
    for method in service.methods:
        assert method.name in vars(FaissServicer)


@pytest.mark.parametrize("field", ["in_use", "refused"])
async def test_too_many_releases_in_use_are_refused(server: RunningFaissServer, field: str) -> None:
    request = pb.GetStatusRequest()
    getattr(request, field).extend(range(17))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.faiss.GetStatus(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"{field}: 17 given, at most 16 allowed"
