"""An OpenTelemetry collector that keeps what it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector", "Seen", "caller_context", "collecting"]


@dataclass(frozen=True)
class Seen:
    """A span, and the server it came from."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> dict[str, str | int]:
        return {
            pair.key: pair.value.string_value or pair.value.int_value
            for pair in self.span.attributes
        }


class Collector(pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.endpoint = ""
        self._seen: list[Seen] = []
        self._changed = Condition()

    def Export(self, request, context):  # noqa: N802 - the contract's name
        with self._changed:
            for resource in request.resource_spans:
                (service,) = (
                    pair.value.string_value
                    for pair in resource.resource.attributes
                    if pair.key == "service.name"
                )
                for scope in resource.scope_spans:
                    self._seen += [Seen(service, span) for span in scope.spans]
            self._changed.notify_all()
        return pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str, spans: int = 0, seconds: float = 20) -> list[Seen]:
        """Answer the spans of a trace once there are so many; those there are when time is up."""

        def found() -> list[Seen]:
            return [seen for seen in self._seen if seen.span.trace_id.hex() == trace_id]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= spans, seconds)
            return found()

    def all(self) -> list[Seen]:
        with self._changed:
            return list(self._seen)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def caller_context(number: int, *, sampled: bool = True) -> tuple[str, str, tuple[str, str]]:
    """Answer the ids of a caller's trace and span, and the metadata that tells of them."""
    trace_id, span_id = f"{number:032x}", f"{number:016x}"
    header = f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"
    return trace_id, span_id, ("traceparent", header)
