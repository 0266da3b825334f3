"""What happens around every call: the limit, the error table, metrics and the log line."""

from __future__ import annotations  # grpc.RpcMethodHandler takes parameters in its stubs only

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from service_runtime.admission import AdaptiveLimit, LoopLag
from service_runtime.errors import (
    CallError,
    InvalidRequestError,
)
from service_runtime.metrics import CallMetrics, MethodMetrics
from service_runtime.status_codes import code_of
from service_runtime.tracing import trace_id

if TYPE_CHECKING:
    from service_runtime.opentelemetry_traces import Step, Tracing

__all__ = ["CallInterceptor"]

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
UnaryHandler = Callable[[Any, Context], Awaitable[Any]]
# Generic in the type stubs only.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[MethodHandler | None]]"

# Never limited, measured or logged: a server under load still answers for its health.
_EXEMPT = ("/grpc.health.", "/grpc.reflection.")

# The caller hangs up when its own deadline passes. That told here is a little later: it is rounded
# up, by as much as a percent, and counts from its arrival.
_EARLIER_SHARE = 0.02
_EARLIER_SECONDS = 0.002


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every unary method of our own services.

    `status_methods` (`/package.Service/Method`) are not refused for load, but once notice is given.
    `leaf`: this server calls no other, so a late call says that it has too many of them.
    `tracing` begins the traces; None: there are none.
    """

    def __init__(
        self,
        metrics: CallMetrics,
        *,
        max_concurrent_calls: int,
        slow_call_seconds: float,
        status_methods: frozenset[str] = frozenset(),
        leaf: bool = True,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._leaf = leaf
        self._tracing = tracing
        self._limit = max_concurrent_calls
        self._slow_call_seconds = slow_call_seconds
        self._status_methods = status_methods
        self._leaving = False
        self._methods: list[_Method] = []
        self._wrapped: dict[str, MethodHandler] = {}

    async def intercept_service(  # noqa: D102 - grpc's own
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MethodHandler | None:
        path = handler_call_details.method
        if self._leaving and path in self._status_methods:
            return _REFUSE_FOR_LEAVING
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or path.startswith(_EXEMPT):
            return handler
        wrapped = self._wrapped[path] = self._wrap(path, handler)
        return wrapped

    def _wrap(self, path: str, handler: MethodHandler) -> MethodHandler:
        service, method = path.lstrip("/").split("/")
        limited = path not in self._status_methods
        made = _Method(
            path,
            handler,
            self._metrics.of(service, method),
            limit=AdaptiveLimit(self._limit, leaf=self._leaf) if limited else None,
            slow_call_seconds=self._slow_call_seconds,
            tracing=self._tracing,
        )
        self._methods.append(made)
        self._metrics.look_up(service, method, lambda: made.in_flight, made.limit)
        # A bound method and not a callable object: grpc looks for a coroutine function.
        return grpc.unary_unary_rpc_method_handler(made.answer, None, handler.response_serializer)

    def give_notice(self) -> None:
        """Refuse status methods from now on: this server is about to leave."""
        self._leaving = True

    async def wait_until_idle(self) -> None:
        """Return once no call is being answered; health watchers do not count."""
        for method in self._methods:
            await method.idle.wait()


async def _refuse_for_leaving(_request: bytes, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is about to end")


_REFUSE_FOR_LEAVING: Final[MethodHandler] = grpc.unary_unary_rpc_method_handler(_refuse_for_leaving)


class _Method:
    """One method with everything around it."""

    def __init__(
        self,
        path: str,
        handler: MethodHandler,
        metrics: MethodMetrics,
        *,
        limit: AdaptiveLimit | None,
        slow_call_seconds: float,
        tracing: Tracing | None,
    ) -> None:
        self._path = path
        self._tracing = tracing
        self._handler = cast("UnaryHandler", handler.unary_unary)
        self._metrics = metrics
        self._limit = limit
        self._slow_call_seconds = slow_call_seconds
        self._in_flight = 0
        self._lag = LoopLag(lambda: self._in_flight, self._lower_limit)
        self._deserialize = handler.request_deserializer or (lambda request: request)
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def in_flight(self) -> int:
        """Answer how many calls are being answered."""
        return self._in_flight

    def limit(self) -> int:
        """Answer how many may be; 0: any number."""
        return 0 if self._limit is None else self._limit.calls

    async def answer(self, request: bytes, context: Context) -> Any:
        """Answer one call, or end it with the status of what went wrong."""
        call = _Call(time.perf_counter(), context.time_remaining(), context)
        if refusal := self._refusal(call.deadline_seconds):
            # No line in the log: under overload these are most of the calls, and must cost nothing.
            self._metrics.shed.inc()
            self._metrics.observe(code_of(refusal).name, 0.0)
            await context.abort(code_of(refusal), str(refusal))
        self._enter()
        try:
            if self._tracing is not None:
                call.step = self._tracing.begin(self._path, context.invocation_metadata())
            response = await self._handler(self._parsed(request), context)
        except asyncio.CancelledError:
            # There is nobody to answer: the caller went away, or its deadline passed.
            self._finish("DEADLINE_EXCEEDED" if call.is_out_of_time() else "CANCELLED", call)
            raise
        except grpc.aio.AbortError:
            self._finish("ABORTED", call)
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence; it is logged
            await self._abort(error, call)
        else:
            self._finish("OK", call)
            return response
        finally:
            self._leave()

    def _refusal(self, deadline_seconds: float | None) -> CallError | None:
        """Answer why not to begin: work that cannot be of use would only delay what can."""
        if self._limit is None:
            return None
        return self._limit.refusal(deadline_seconds, self._in_flight)

    def _lower_limit(self) -> None:
        if self._limit is not None:
            self._limit.lags(self._in_flight)

    def _enter(self) -> None:
        self._in_flight += 1
        if self._in_flight > 1:  # a single call has nobody to queue behind
            self._lag.watch()
        self.idle.clear()

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self.idle.set()

    def _parsed(self, request: bytes) -> Any:
        # Here and not by grpc, which would answer UNKNOWN with the exception's text.
        try:
            return self._deserialize(request)
        except DecodeError:
            raise InvalidRequestError("the request is not a message of this method") from None

    async def _abort(self, error: Exception, call: _Call) -> None:
        if isinstance(error, CallError):
            code, message = code_of(error), str(error)
        else:
            # The text of an unforeseen exception is for us, not for callers.
            logger.error("%s failed", self._path, exc_info=error, extra=_names_of(call))
            code, message = grpc.StatusCode.INTERNAL, "internal error; see the server's log"
        # Which part is away is for the log too; other texts may quote a request.
        why = message if code is grpc.StatusCode.UNAVAILABLE else ""
        self._finish(code.name, call, why)
        await call.context.abort(code, message)

    def _finish(self, code: str, call: _Call, why: str = "") -> None:
        seconds = time.perf_counter() - call.started
        self._metrics.observe(code, seconds)
        if self._limit is not None:
            if code == "OK":
                self._limit.answered(seconds)
            self._limit.record(seconds, call.deadline_seconds, self._in_flight)
        self._log(code, seconds, call, why)
        if call.step is not None:
            call.step.end_call(code)

    def _log(self, code: str, seconds: float, call: _Call, why: str) -> None:
        notable = code != "OK" or seconds >= self._slow_call_seconds
        level = logging.INFO if notable else logging.DEBUG
        if logger.isEnabledFor(level):
            text, why = "%s %s %.1f ms%s", why and f": {why}"
            logger.log(level, text, self._path, code, seconds * 1000, why, extra=_names_of(call))


@dataclass(slots=True)
class _Call:
    """One call that is being answered."""

    started: float
    deadline_seconds: float | None
    """What was left to the caller's deadline when it arrived; None: it has none."""
    context: Context
    step: Step | None = None
    """Where the call is traced."""

    def is_out_of_time(self) -> bool:
        """Answer whether the caller's deadline has passed, as the caller counts."""
        if self.deadline_seconds is None:
            return False
        callers = self.deadline_seconds * (1 - _EARLIER_SHARE) - _EARLIER_SECONDS
        return time.perf_counter() - self.started >= callers


def _names_of(call: _Call) -> dict[str, str | bytes | None]:
    """Answer what log lines are found by: the caller's name for the call, and the trace's."""
    metadata = dict(call.context.invocation_metadata() or ())
    return {"request_id": metadata.get("x-request-id"), "trace_id": trace_id()}
