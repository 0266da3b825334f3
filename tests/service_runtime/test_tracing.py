"""Which calls are traced, and what their spans say; asked over the wire, told to a collector."""

import logging
import sys

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.redis import free_port
from service_runtime import errors
from service_runtime.errors import StartupError
from service_runtime.tracing import annotate, begin_step, traced_call
from tests.support.collector import caller_context, collecting
from tests.support.servers import SERVICE, calling, serving

NAME = f"{SERVICE}/GetHistory"


class Servicer(pb2_grpc.RecommenderServiceServicer):
    """Takes a step and makes a call, which fails where it is told an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.metadata: tuple[tuple[str, str], ...] | None = None

    async def GetHistory(self, request, context):  # noqa: N802 - the contract's name
        annotate({"recsys.release": 7})
        step = begin_step("stage")
        with traced_call("Search", "127.0.0.1:1") as self.metadata:
            if self.error is not None:
                raise self.error
        if step is not None:
            step.end()
        return pb2.GetHistoryResponse()


async def ask(servicer, *metadata, times=1, leaf=False, **settings) -> list:
    """Answer the spans that a collector has once the server has ended."""
    with collecting() as collector:
        async with (
            serving(servicer, leaf=leaf, traces_endpoint=collector.endpoint, **settings) as running,
            calling(running) as (stub, _),
        ):
            for _ in range(times):
                try:
                    await stub.GetHistory(pb2.GetHistoryRequest(user_id="u"), metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    assert servicer.error is not None, error  # noqa: PT017
        return collector.all()


async def test_a_callers_trace_goes_on_through_steps_and_calls():
    trace_id, caller, header = caller_context(1)
    servicer = Servicer()
    spans = await ask(servicer, header, traces_sample_ratio=0)
    by_name = {seen.name: seen for seen in spans}
    server, stage, call = by_name[NAME], by_name["stage"], by_name["Search"]
    assert len(spans) == 3
    assert {seen.span.trace_id.hex() for seen in spans} == {trace_id}
    assert server.span.parent_span_id.hex() == caller
    assert stage.span.parent_span_id == server.span.span_id
    assert call.span.parent_span_id == stage.span.span_id
    assert servicer.metadata == (("traceparent", f"00-{trace_id}-{call.span.span_id.hex()}-01"),)
    assert {seen.service for seen in spans} == {"test-server"}
    kinds = type(server.span)
    assert server.span.kind == kinds.SPAN_KIND_SERVER
    assert stage.span.kind == kinds.SPAN_KIND_INTERNAL
    assert call.span.kind == kinds.SPAN_KIND_CLIENT
    assert call.attributes == {"server.address": "127.0.0.1:1"}
    assert server.attributes == {
        "rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": "GetHistory",
        "rpc.grpc.status_code": 0, "recsys.release": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "ratio", "leaf", "traced"),
    [
        (caller_context(2)[2], 0.0, False, True),
        (caller_context(2)[2], 0.0, True, True),
        (caller_context(2, sampled=False)[2], 1.0, False, False),
        (("traceparent", "nonsense"), 1.0, False, True),
        (("traceparent", "nonsense"), 0.0, False, False),
        (("x-request-id", "r"), 1.0, False, True),
        (("x-request-id", "r"), 0.0, False, False),
        (("x-request-id", "r"), 1.0, True, False),  # a trace does not begin at a backend
    ],
)
async def test_what_is_traced(header, ratio, leaf, traced):
    servicer = Servicer()
    spans = await ask(servicer, header, leaf=leaf, traces_sample_ratio=ratio)
    assert len(spans) == (3 if traced else 0)
    assert (servicer.metadata is not None) == traced


async def test_about_the_share_is_traced_of_calls_that_leave_it_open():
    spans = await ask(Servicer(), times=200, traces_sample_ratio=0.5)
    assert 150 < len(spans) < 450  # three for each of about a hundred: 100 ± 50, seven deviations


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [
        (errors.InvalidRequestError("limit: 0"), grpc.StatusCode.INVALID_ARGUMENT, False),
        (errors.BackendUnavailableError("x"), grpc.StatusCode.UNAVAILABLE, True),
        (ValueError("secret"), grpc.StatusCode.INTERNAL, True),
    ],
)
async def test_a_failure_is_told_by_the_step_that_failed_and_the_servers_faults_by_the_answer(
    error, code, failed
):
    spans = await ask(Servicer(error), caller_context(3)[2])
    by_name = {seen.name: seen.span for seen in spans}
    status = by_name[NAME].status
    assert (status.code == status.STATUS_CODE_ERROR) == failed
    assert status.message == ""
    (server,) = (seen for seen in spans if seen.name == NAME)
    assert server.attributes["rpc.grpc.status_code"] == code.value[0]
    assert by_name["Search"].status.code == status.STATUS_CODE_ERROR
    assert by_name["Search"].status.message == str(error)


async def test_without_an_endpoint_nothing_is_traced_and_without_a_collector_all_goes_on():
    servicer = Servicer()
    header = caller_context(4)[2]
    async with serving(servicer) as running, calling(running) as (stub, _):
        await stub.GetHistory(pb2.GetHistoryRequest(user_id="u"), metadata=[header])
    assert servicer.metadata is None
    away = f"http://127.0.0.1:{free_port()}"
    async with (
        serving(servicer, traces_endpoint=away) as running,
        calling(running) as (stub, _),
    ):
        await stub.GetHistory(pb2.GetHistoryRequest(user_id="u"), metadata=[header])
    assert servicer.metadata is not None


async def test_without_the_package_the_setting_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "service_runtime.opentelemetry_traces", None)
    with pytest.raises(StartupError, match=r"^TRACES_ENDPOINT: .*install .*\[tracing\]"):
        async with serving(Servicer(), traces_endpoint="http://127.0.0.1:1"):
            raise AssertionError


async def test_log_lines_name_the_request_and_the_trace(caplog):
    trace_id, _, header = caller_context(5)
    with caplog.at_level(logging.INFO):
        await ask(Servicer(ValueError("boom")), header, ("x-request-id", "r-17"))
    lines = [record for record in caplog.records if record.name == "service_runtime.interceptor"]
    assert len(lines) == 2
    assert {(line.request_id, line.trace_id) for line in lines} == {("r-17", trace_id)}
