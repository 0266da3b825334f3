"""What a server tells CloudWatch of its load: lines on standard output."""

import asyncio
import json
import logging
from collections.abc import Callable

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from tests.support.servers import SERVICE, calling, serving

PATH = f"/{SERVICE}/GetHistory"
REQUEST = pb2.GetHistoryRequest(user_id="u")


class Servicer(pb2_grpc.RecommenderServiceServicer):
    """Answers at once, unless told to hold."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.begun = asyncio.Event()

    async def GetHistory(self, request, context):  # noqa: N802 - the contract's name
        self.begun.set()
        await self.may_end.wait()
        return pb2.GetHistoryResponse()


@pytest.fixture
def read(capfd) -> Callable[[], list[dict]]:
    """Answer the lines since the last time."""
    return lambda: [json.loads(line) for line in capfd.readouterr().out.splitlines()]


@pytest.mark.parametrize("busy", [True, False])
async def test_calls_in_flight_are_told_without_status_calls(busy, read):
    async with (
        serving(
            Servicer(),
            status_methods=frozenset() if busy else frozenset({PATH}),
            cloudwatch_metrics_seconds=0.05,
            cloudwatch_stack="" if busy else "blue",
        ) as running,
        calling(running) as (stub, _),
    ):
        told: list[dict] = []
        while len(told) < 3:
            await stub.GetHistory(REQUEST)
            told += read()
    (directive,) = told[0]["_aws"]["CloudWatchMetrics"]
    assert directive == {
        "Namespace": "Recsys",
        "Dimensions": [["Service"] if busy else ["Service", "Stack"]],
        "Metrics": [
            {"Name": "CallsInFlight", "Unit": "Count"},
            {"Name": "CallsShed", "Unit": "Count"},
        ],
    }
    assert told[0]["Service"] == "test-server"
    assert told[0].get("Stack") == (None if busy else "blue")
    assert told[0]["_aws"]["Timestamp"] > 1_700_000_000_000
    # One caller that waits for each answer has less than one call in flight.
    in_flight = [line["CallsInFlight"] for line in told]
    assert all(0 < each < 1 if busy else each == 0 for each in in_flight)
    assert {line["CallsShed"] for line in told} == {0}


async def test_refused_calls_are_counted_there_and_have_no_line_in_the_log(read, caplog):
    servicer = Servicer()
    servicer.may_end.clear()
    async with (
        serving(
            servicer,
            max_concurrent_calls=1,
            slow_call_seconds=60,
            cloudwatch_metrics_seconds=0.05,
        ) as running,
        calling(running) as (stub, _),
    ):
        held = asyncio.ensure_future(stub.GetHistory(REQUEST))
        await servicer.begun.wait()
        with caplog.at_level(logging.INFO, "service_runtime.interceptor"):
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GetHistory(REQUEST)
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            told = read()
            while not told or told[-1]["CallsShed"]:  # until an interval without
                await asyncio.sleep(0.02)
                told += read()
        servicer.may_end.set()
        await held
    assert sum(line["CallsShed"] for line in told) == 3
    assert [each for each in caplog.messages if PATH in each] == []


async def test_a_server_that_can_tell_nothing_any_more_does_not_go_on_in_silence(monkeypatch):
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError("standard output")

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stdout", Closed())
    async with asyncio.timeout(10), serving(Servicer(), cloudwatch_metrics_seconds=0.01) as running:
        with pytest.raises(BrokenPipeError, match="standard output"):
            await running.background.run_until(asyncio.Event())
