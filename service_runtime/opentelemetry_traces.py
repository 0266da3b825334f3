"""Traces by OpenTelemetry; loaded by servers that are told of a collector, and by no other."""

import random
from collections.abc import Iterable, Sequence
from contextvars import Token
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_runtime.tracing import Attributes, current

__all__ = ["Step", "Tracing"]

_EXPORT_SECONDS: Final = 5.0
_W3C: Final = TraceContextTextMapPropagator()
# Those that OpenTelemetry calls a server's errors: the others are the caller's.
_SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Step:
    """A span that others can begin below; the current one from its beginning to its end."""

    __slots__ = ("_links", "_span", "_token", "_tracer")

    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, links: Sequence[trace.Link] = ()
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._links = links
        self._token: Token[Step | None] | None = None

    def begun(self) -> "Step":
        """Make this the current step."""
        self._token = current.set(self)
        return self

    def below(self, name: str, called: str | None = None) -> "Step":
        """Begin a step below this one; `called`: the address of the server that it calls."""
        kind = trace.SpanKind.INTERNAL if called is None else trace.SpanKind.CLIENT
        span = self._tracer.start_span(name, self._context, kind, links=self._links)
        if called is not None:
            span.set_attribute("server.address", called)
        return Step(self._tracer, span).begun()

    def beside(self, others: Iterable["Step"]) -> "Step":
        """Answer this step as one that works for others too: what is below links to them."""
        links = [trace.Link(other._span.get_span_context()) for other in others]  # noqa: SLF001
        return Step(self._tracer, self._span, links)

    def annotate(self, attributes: Attributes) -> None:
        """Say more of this step."""
        self._span.set_attributes(dict(attributes))

    @property
    def trace_id(self) -> str:
        """Answer the trace's id, 32 hexadecimal digits."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Answer what a call to another server carries, so that it goes on with this trace."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return tuple(carrier.items())

    @property
    def _context(self) -> Context:
        return trace.set_span_in_context(self._span, Context())

    def end(self, error: BaseException | None = None) -> None:
        """End the step, which failed where there is an error; the one above is current again."""
        if error is not None:
            self._fail(type(error).__name__, str(error.__cause__ or error))
        self._end()

    def end_call(self, code: str) -> None:
        """End the answer to a call with the name of its status code."""
        status = grpc.StatusCode[code].value[0]
        self._span.set_attribute("rpc.grpc.status_code", status)
        if code in _SERVER_ERRORS:
            self._fail(code, None)
        self._end()

    def _fail(self, kind: str, text: str | None) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR, text)

    def _end(self) -> None:
        self._span.end()
        if self._token is not None:
            current.reset(self._token)


class Tracing:
    """Begins the traces of a server's calls, and sends them to a collector.

    Traced is what its caller traces, and of the calls whose callers say nothing the share
    `sample_ratio`. Headers, certificates and more for the collector at `endpoint` (http:// or
    https://) are read from OpenTelemetry's own variables `OTEL_*`.
    """

    def __init__(self, endpoint: str, service_name: str, sample_ratio: float) -> None:
        self._sample_ratio = sample_ratio
        resource = Resource.create({"service.name": service_name, "service.namespace": "recsys"})
        # Sampled before a span is made: a call that is not traced should cost nothing.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("recsys.service_runtime")

    def begin(self, path: str, metadata: Iterable[tuple[str, Any]] | None) -> Step | None:
        """Begin the answer to a call of `/package.Service/Method`; None: it is not traced."""
        above = self._above(metadata or ())
        if above is None:
            return None
        service, method = path.lstrip("/").split("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        name = f"{service}/{method}"
        span = self._tracer.start_span(name, above, trace.SpanKind.SERVER, attributes)
        return Step(self._tracer, span).begun()

    def _above(self, metadata: Iterable[tuple[str, Any]]) -> Context | None:
        """Answer what a call's span begins below; None: the call is not to be traced."""
        carrier = {key: value for key, value in metadata if key.startswith("trace")}
        if carrier:
            caller = _W3C.extract(carrier, Context())
            context = trace.get_current_span(caller).get_span_context()
            if context.is_valid:
                return caller if context.trace_flags.sampled else None
        drawn = random.random() < self._sample_ratio  # noqa: S311 - no secret
        return Context() if drawn else None

    def close(self) -> None:
        """Send what is left, if the collector is there."""
        self._provider.shutdown()
