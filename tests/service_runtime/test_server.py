"""What every server does around its calls, asked over the wire."""

import asyncio
import json
import logging
import os
import re
import socket
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from service_runtime import errors
from service_runtime.deadlines import Deadline
from service_runtime.metrics import new_registry
from service_runtime.status_codes import translated_errors
from service_runtime.workers import _reserved
from tests.support.servers import SERVICE, Settings, calling, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Servicer(pb2_grpc.RecommenderServiceServicer):
    """Raises what it is told, or waits until it is released."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.budget = 0.0
        self.blocking_seconds = 0.0
        """For so long each call has the event loop to itself."""

    async def GetHistory(self, request, context):  # noqa: N802 - the contract's name
        self.budget = Deadline.of(context, 7.0, reserve_fraction=0.5).budget()
        self.entered.set()
        time.sleep(self.blocking_seconds)  # noqa: ASYNC251 - that is the point
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return pb2.GetHistoryResponse()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequestError("limit: 0"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (errors.OutOfTimeError("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.OverloadedError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.BackendUnavailableError("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.ReleaseNotHeldError("x"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_every_error_reaches_the_caller_as_its_code_and_back(error, code):
    servicer = Servicer()
    servicer.error = error
    async with serving(servicer) as running, calling(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHistory(pb2.GetHistoryRequest())
        assert (refused.value.code(), refused.value.details()) == (code, str(error))
        with (
            pytest.raises(type(error), match=f"backend: {code.name}"),
            translated_errors("backend"),
        ):
            await stub.GetHistory(pb2.GetHistoryRequest())


async def test_the_text_of_an_unforeseen_error_stays_in_the_log(caplog):
    servicer = Servicer()
    servicer.error = ValueError("the secret is 42")
    async with serving(servicer) as running, calling(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHistory(pb2.GetHistoryRequest())
    assert refused.value.code() == grpc.StatusCode.INTERNAL
    assert "42" not in refused.value.details()
    assert "the secret is 42" in caplog.text


async def test_health_is_not_serving_until_told_and_again_while_draining():
    servicer = Servicer()
    async with asyncio.timeout(10), serving(servicer) as running, calling(running) as (_, health):
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == NOT_SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == NOT_SERVING
        await running.set_serving(serving=True)
        assert (await watched.read()).status == SERVING
        drained = asyncio.create_task(running.drain(0, 5))
        assert (await watched.read()).status == NOT_SERVING
        await drained


async def test_draining_answers_the_calls_in_flight_and_takes_no_new_ones():
    servicer = Servicer()
    servicer.release.clear()
    async with serving(servicer) as running, calling(running) as (stub, _):
        in_flight = stub.GetHistory(pb2.GetHistoryRequest())
        await servicer.entered.wait()
        drained = asyncio.create_task(running.drain(0, 10))
        await asyncio.sleep(0)  # the drain begins, and has something to wait for
        assert not drained.done()
        servicer.release.set()
        assert await in_flight == pb2.GetHistoryResponse()
        await drained
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHistory(pb2.GetHistoryRequest(), timeout=2)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_while_notice_is_given_status_is_refused_and_other_calls_are_answered():
    servicer = Servicer()
    path = f"/{SERVICE}/GetCandidates"
    async with (
        asyncio.timeout(10),
        serving(servicer, status_methods=frozenset({path})) as running,
        calling(running) as (stub, health),
    ):
        watched = health.Watch(health_pb2.HealthCheckRequest())
        await watched.read()
        await running.set_serving(serving=True)
        await watched.read()
        drained = asyncio.create_task(running.drain(0.5, 5))
        assert (await watched.read()).status == NOT_SERVING
        await stub.GetHistory(pb2.GetHistoryRequest())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetCandidates(pb2.GetCandidatesRequest())
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not drained.done()
        await drained


async def test_connections_are_renewed_without_a_failed_call():
    async with (
        serving(Servicer(), max_connection_age_seconds=0.05) as running,
        calling(running) as (stub, _),
    ):
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            await stub.GetHistory(pb2.GetHistoryRequest())


async def test_calls_beyond_the_limit_are_refused_and_counted():
    servicer = Servicer()
    servicer.release.clear()
    registry = new_registry()
    async with (
        serving(servicer, registry, max_concurrent_calls=1) as running,
        calling(running) as (stub, health),
    ):
        first = stub.GetHistory(pb2.GetHistoryRequest())
        await servicer.entered.wait()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHistory(pb2.GetHistoryRequest())
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await health.Check(health_pb2.HealthCheckRequest())
        servicer.release.set()
        await first
    labels = {"service": SERVICE, "method": "GetHistory"}
    assert registry.get_sample_value("recsys_rpc_shed_total", labels) == 1
    assert registry.get_sample_value("recsys_rpc_in_flight", labels) == 0
    for code in ("OK", "RESOURCE_EXHAUSTED"):
        count = registry.get_sample_value(
            "recsys_rpc_duration_seconds_count", {**labels, "code": code}
        )
        assert count == 1


async def test_a_loop_that_cannot_keep_up_refuses_calls_long_before_the_fixed_limit():
    servicer = Servicer()
    servicer.blocking_seconds = 0.02
    servicer.release.clear()
    registry = new_registry()
    labels = {"service": SERVICE, "method": "GetHistory"}
    async with serving(servicer, registry) as running, calling(running) as (stub, health):
        calls = []
        while not registry.get_sample_value("recsys_rpc_shed_total", labels):
            calls.append(stub.GetHistory(pb2.GetHistoryRequest(), timeout=30))
            await asyncio.sleep(0.01)
        await health.Check(health_pb2.HealthCheckRequest())
        assert 8 <= registry.get_sample_value("recsys_rpc_limit", labels) < 60
        servicer.release.set()
        codes = [await call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_call_with_less_time_than_any_has_taken_lately_is_not_begun():
    servicer = Servicer()
    registry = new_registry()
    async with serving(servicer, registry) as running, calling(running) as (stub, _):
        servicer.release.clear()
        slow = stub.GetHistory(pb2.GetHistoryRequest())
        await servicer.entered.wait()
        await asyncio.sleep(0.3)
        servicer.release.set()
        await slow
        servicer.entered.clear()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHistory(pb2.GetHistoryRequest(), timeout=0.2)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert not servicer.entered.is_set()
        await stub.GetHistory(pb2.GetHistoryRequest(), timeout=2)
    labels = {"service": SERVICE, "method": "GetHistory"}
    assert registry.get_sample_value("recsys_rpc_shed_total", labels) == 1


async def test_a_caller_that_goes_away_and_one_whose_deadline_passes_are_told_apart():
    servicer = Servicer()
    servicer.release.clear()
    registry = new_registry()
    async with serving(servicer, registry) as running, calling(running) as (stub, _):
        left = stub.GetHistory(pb2.GetHistoryRequest(), timeout=30)
        await servicer.entered.wait()
        left.cancel()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetHistory(pb2.GetHistoryRequest(), timeout=0.5)
        servicer.entered.clear()
        left = stub.GetHistory(pb2.GetHistoryRequest())
        await servicer.entered.wait()
        left.cancel()
    labels = {"service": SERVICE, "method": "GetHistory"}
    for code, calls in (("CANCELLED", 2), ("DEADLINE_EXCEEDED", 1)):
        count = registry.get_sample_value(
            "recsys_rpc_duration_seconds_count", {**labels, "code": code}
        )
        assert count == calls
    assert registry.get_sample_value("recsys_rpc_deadline_exceeded_total", labels) == 1


async def test_which_part_is_away_is_logged_and_what_a_request_held_is_not(caplog):
    caplog.set_level(logging.INFO, "service_runtime.interceptor")
    servicer = Servicer()
    async with serving(servicer) as running, calling(running) as (stub, _):
        for kind in (errors.BackendUnavailableError, errors.InvalidRequestError):
            servicer.error = kind("the text")
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetHistory(pb2.GetHistoryRequest())
    away, invalid = (line for line in caplog.messages if "GetHistory" in line)
    assert re.search(r" UNAVAILABLE \d+\.\d ms: the text$", away)
    assert re.search(r" INVALID_ARGUMENT \d+\.\d ms$", invalid)


async def test_the_budget_is_the_callers_deadline_less_the_reserve():
    servicer = Servicer()
    async with serving(servicer) as running, calling(running) as (stub, _):
        await stub.GetHistory(pb2.GetHistoryRequest())
        assert 3.0 < servicer.budget <= 3.5
        await stub.GetHistory(pb2.GetHistoryRequest(), timeout=2)
        assert 0.5 < servicer.budget < 1.1  # gRPC rounds deadlines up, by a percent


async def test_reflection_describes_the_service():
    async with (
        serving(Servicer()) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = {one.name async for a in answers for one in a.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_metrics_are_on_their_own_port():
    async with serving(Servicer()) as running, calling(running) as (stub, _):
        await stub.GetHistory(pb2.GetHistoryRequest())
        url = f"http://127.0.0.1:{running.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert 'recsys_rpc_duration_seconds_count{code="OK",method="GetHistory"' in text


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
async def test_it_listens_on_an_ipv6_address(host):
    async with (
        serving(Servicer(), host=host) as running,
        grpc.aio.insecure_channel(f"[::1]:{running.port}") as channel,
    ):
        stub = pb2_grpc.RecommenderServiceStub(channel)
        await stub.GetHistory(pb2.GetHistoryRequest(), timeout=5)
        url = f"http://[::1]:{running.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert "recsys_rpc_duration_seconds_count" in text
        with pytest.raises(errors.StartupError, match=rf"\[::1?\]:{running.port}.*in use"):
            async with serving(Servicer(), host=host, port=running.port):
                pass
    with _reserved(Settings(host=host, port=0, metrics_port=0)) as port:
        assert port


async def test_a_port_in_use_is_named():
    async with serving(Servicer()) as running:
        with pytest.raises(errors.StartupError, match=f"127.0.0.1:{running.port}.*in use"):
            async with serving(Servicer(), port=running.port):
                pass
        with pytest.raises(errors.StartupError, match=f"metrics port {running.metrics_port}"):
            async with serving(Servicer(), metrics_port=running.metrics_port):
                pass


async def test_a_ready_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(errors.StartupError, match=r"READY_FILE: .*nowhere"):
        async with serving(Servicer(), ready_file=tmp_path / "nowhere" / "ready.json"):
            pass


async def test_the_ready_file_tells_the_ports_and_the_process(tmp_path):
    ready_file = tmp_path / "ready.json"
    async with serving(Servicer(), ready_file=ready_file) as running:
        assert json.loads(ready_file.read_text()) == {
            "port": running.port,
            "metrics_port": running.metrics_port,
            "pid": os.getpid(),
        }
