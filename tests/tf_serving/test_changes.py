"""Versions that come, go, fail and are in use, with fakes in the place of models."""

import asyncio
import logging
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.tf_serving.serving import (
    HISTORY,
    Client,
    FakeLoads,
    FakeModel,
    model_server,
    server_settings,
)
from tf_serving.errors import Code
from tf_serving.versions import All, Latest, Specific, State

AVAILABLE, LOADING, UNLOADING, END = (State.AVAILABLE, State.LOADING, State.UNLOADING, State.END)


async def number_of(client: Client, version: int | None = None) -> tuple[int, int]:
    served, outputs = await client.predict(HISTORY, version=version)
    return served, int(outputs["number"][0])


async def entered(loads: FakeLoads, version: int) -> None:
    assert await asyncio.to_thread(loads.models[version].entered.wait, 30)


async def metrics(client: Client) -> dict[str, float]:
    assert client.server
    url = f"http://127.0.0.1:{client.server.metrics_port}/metrics"

    def read() -> str:
        with urllib.request.urlopen(url) as response:
            return response.read().decode()

    lines = [line for line in (await asyncio.to_thread(read)).splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_a_new_version_is_found_and_becomes_the_latest(versions, loads, numbered):
    versions.add(1, numbered(10))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE})
        assert await number_of(client) == (1, 10)
        versions.add(2, numbered(20))
        await client.until({1: AVAILABLE, 2: AVAILABLE})
        assert await number_of(client) == (2, 20)
        assert await number_of(client, version=1) == (1, 10)


async def test_the_oldest_of_two_makes_room_for_a_third(versions, loads, numbered):
    versions.add(1, numbered(10))
    versions.add(2, numbered(20))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE, 2: AVAILABLE})
        versions.add(3, numbered(30))
        await client.until({1: END, 2: AVAILABLE, 3: AVAILABLE})
        assert await number_of(client) == (3, 30)


async def test_a_call_in_flight_on_a_dropped_version_ends_well_before_the_next_is_loaded(
    versions, loads, numbered
):
    versions.add(1, numbered(10))
    versions.add(2, numbered(20))
    gate = loads.gate(1)
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE, 2: AVAILABLE})
        gate.clear()
        call = asyncio.create_task(number_of(client, version=1))
        await entered(loads, 1)
        versions.add(3, numbered(30))
        found = await client.until({1: UNLOADING, 2: AVAILABLE, 3: State.START})
        assert loads.attempts == [2, 1]
        assert found[1].status.error_code == 0
        with pytest.raises(grpc.aio.AioRpcError, match="Servable not found"):
            await number_of(client, version=1)
        gate.set()
        assert await call == (1, 10)
        await client.until({1: END, 2: AVAILABLE, 3: AVAILABLE})


async def test_a_withdrawn_version_is_dropped_and_the_server_goes_on(versions, loads, numbered):
    versions.add(1, numbered(10))
    versions.add(2, numbered(20))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE, 2: AVAILABLE})
        versions.remove(2)
        await client.until({1: AVAILABLE, 2: END})
        assert await number_of(client) == (1, 10)


async def test_a_broken_version_is_refused_once_and_the_old_one_serves(
    versions, loads, numbered, caplog
):
    caplog.set_level(logging.ERROR, logger="tf_serving")
    versions.add(1, numbered(10))
    async with model_server(versions.base_path, loads, policy=Latest(1)) as client:
        await client.until({1: AVAILABLE})
        versions.add(2, numbered("broken"))
        found = await client.until({1: AVAILABLE, 2: END})
        assert found[2].status.error_code == Code.DATA_LOSS
        assert found[2].status.error_message == "it is broken"
        versions.add(3, numbered("absurd"))
        found = await client.until({1: AVAILABLE, 2: END, 3: END})
        assert found[3].status.error_code == Code.UNKNOWN
        assert await number_of(client) == (1, 10)
        # A version that is wanted and whole is found by the same look that would try them again.
        versions.add(4, numbered(40))
        await client.until({1: END, 2: END, 3: END, 4: AVAILABLE})
        assert loads.attempts == [1, 2, 3, 4]
        seen = await metrics(client)
    assert [record.args[1] for record in caplog.records] == [2, 3]
    failures = 'recsys_model_load_failures_total{code="%s",model="user_tower"}'
    assert seen[failures % "DATA_LOSS"] == 1
    assert seen[failures % "UNKNOWN"] == 1
    assert seen[failures % "NOT_FOUND"] == 0
    assert seen['recsys_release{kind="model"}'] == 4
    assert seen['recsys_model_versions_available{model="user_tower"}'] == 1


async def test_a_broken_version_is_tried_again_once_it_changes_or_comes_back(
    versions, loads, numbered
):
    versions.add(1, numbered("broken"))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: END})
        (versions.base_path / "1" / "number").write_text("11")
        await client.until({1: AVAILABLE})
        assert await number_of(client) == (1, 11)
        versions.add(2, numbered("broken"))
        await client.until({1: AVAILABLE, 2: END})
        versions.remove(2)
        versions.add(2, numbered(22))
        await client.until({1: AVAILABLE, 2: AVAILABLE})
        assert await number_of(client) == (2, 22)


async def test_versions_are_chosen_by_the_policy(versions, loads, numbered):
    for version in (1, 2, 3):
        versions.add(version, numbered(version))
    async with model_server(versions.base_path, loads, policy=All()) as client:
        await client.until({1: AVAILABLE, 2: AVAILABLE, 3: AVAILABLE})
    specific = Specific(frozenset({2, 9}))
    async with model_server(versions.base_path, loads, policy=specific) as client:
        await client.until({2: AVAILABLE})


async def test_a_base_path_that_is_away_leaves_what_is_loaded_in_service(
    versions, loads, numbered, caplog
):
    caplog.set_level(logging.WARNING, logger="tf_serving")
    versions.add(1, numbered(10))
    away = versions.base_path.with_name("away")
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE})
        versions.base_path.rename(away)
        async with asyncio.timeout(30):
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert await number_of(client) == (1, 10)
        away.rename(versions.base_path)
        versions.add(2, numbered(20))
        await client.until({1: AVAILABLE, 2: AVAILABLE})
    assert "cannot read the versions of user_tower" in caplog.text


async def test_the_statuses_of_versions_long_gone_are_forgotten(
    versions, loads, numbered, monkeypatch
):
    monkeypatch.setattr("tf_serving.manager._ENDED_KEPT", 2)
    async with model_server(versions.base_path, loads) as client:
        for version in range(1, 6):
            versions.add(version, numbered(version))
            ended = dict.fromkeys(range(max(1, version - 2), version), END)
            await client.until(ended | {version: AVAILABLE})
            versions.remove(version)


async def test_a_version_that_leaves_before_its_turn_to_load_has_ended(versions, loads, numbered):
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(directory: Path) -> FakeModel:
        if directory.name == "2":
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
        return loads(directory)

    versions.add(1, numbered(10))
    versions.add(2, numbered(20))
    async with model_server(versions.base_path, load) as client:
        await client.until({1: State.START, 2: LOADING})
        versions.remove(1)
        gate.set()
        await client.until({1: END, 2: AVAILABLE})


async def test_health_follows_whether_a_version_is_in_service(versions, loads, numbered):
    serving, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    async with model_server(versions.base_path, loads) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        service = "tensorflow.serving.PredictionService"
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await watch.read()).status == not_serving
        versions.add(1, numbered(10))
        while (await watch.read()).status != serving:
            pass
        assert await number_of(client) == (1, 10)
        versions.remove(1)
        while (await watch.read()).status != not_serving:
            pass
        watch.cancel()


async def test_a_full_server_refuses_predict_but_tells_its_status(versions, loads, numbered):
    versions.add(1, numbered(10))
    settings = server_settings(max_concurrent_calls=1, threads=1)
    async with model_server(versions.base_path, loads, settings=settings) as client:
        await client.until({1: AVAILABLE})
        loads.gate(1).clear()
        call = asyncio.create_task(number_of(client))
        await entered(loads, 1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await number_of(client)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await client.status())[1].state == AVAILABLE
        loads.gate(1).set()
        assert await call == (1, 10)


async def test_callers_that_leave_or_run_out_of_time_do_not_disturb_the_others(
    versions, loads, numbered
):
    versions.add(1, numbered(10))
    settings = server_settings(threads=1)
    async with model_server(versions.base_path, loads, settings=settings) as client:
        await client.until({1: AVAILABLE})
        gate, model = loads.gate(1), loads.models[1]
        gate.clear()
        computing = asyncio.create_task(number_of(client))
        await entered(loads, 1)
        waiting = asyncio.create_task(number_of(client))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.predict(HISTORY, seconds=0.05)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        computing.cancel()
        model.entered.clear()
        gate.set()
        assert await waiting == (1, 10)
        assert await number_of(client) == (1, 10)


async def test_a_call_without_a_deadline_gets_the_default_while_it_waits(versions, loads, numbered):
    versions.add(1, numbered(10))
    settings = server_settings(threads=1, default_deadline_seconds=0.05)
    async with model_server(versions.base_path, loads, settings=settings) as client:
        await client.until({1: AVAILABLE})
        loads.gate(1).clear()
        computing = asyncio.create_task(number_of(client))
        await entered(loads, 1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.predict(HISTORY, seconds=None)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        loads.gate(1).set()
        assert await computing == (1, 10)


async def test_a_cancelled_call_keeps_its_version_in_use_until_its_thread_ends(
    versions, loads, numbered
):
    versions.add(1, numbered(10))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE})
        loads.gate(1).clear()
        call = asyncio.create_task(number_of(client))
        await entered(loads, 1)
        call.cancel()
        await asyncio.wait([call])
        versions.remove(1)
        await client.until({1: UNLOADING})
        loads.gate(1).set()
        await client.until({1: END})


async def test_no_call_fails_while_versions_come_and_go(versions, loads, numbered):
    versions.add(1, numbered(1))
    answered = list[int]()
    done = asyncio.Event()

    async def ask(client: Client) -> None:
        while not done.is_set():
            served, number = await number_of(client)
            assert served == number
            answered.append(served)

    async with model_server(versions.base_path, loads, policy=Latest(1)) as client:
        await client.until({1: AVAILABLE})
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        for version in range(2, 7):
            versions.add(version, numbered(version))
            await client.until({version: AVAILABLE} | dict.fromkeys(range(1, version), END))
        done.set()
        await asyncio.gather(*asking)
    assert set(answered) >= {6}
    assert np.all(np.diff(loads.attempts) == 1)


async def test_a_draining_server_lets_the_call_in_flight_end(versions, loads, numbered):
    versions.add(1, numbered(10))
    async with model_server(versions.base_path, loads) as client:
        await client.until({1: AVAILABLE})
        loads.gate(1).clear()
        call = asyncio.create_task(number_of(client))
        await entered(loads, 1)
        asyncio.get_running_loop().call_later(0.05, loads.gate(1).set)
        await client.server.drain(notice_seconds=0, grace_seconds=10)
        assert await call == (1, 10)


def test_sources_are_copied_under_a_name_that_is_no_version(versions, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    versions.add(5, source)
    assert [path.name for path in versions.base_path.iterdir()] == ["5"]
