"""What happens around every call: the limit, the error table, metrics and the log line."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc

from service_runtime.errors import CallError, OverloadedError
from service_runtime.metrics import CallMetrics, MethodMetrics
from service_runtime.status_codes import code_of

__all__ = ["CallInterceptor"]

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
UnaryHandler = Callable[[Any, Context], Awaitable[Any]]

# Never limited, measured or logged: a server under load still answers for its health.
_EXEMPT = ("/grpc.health.", "/grpc.reflection.")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every unary method of our own services.

    `unlimited` names methods (`/package.Service/Method`) that are measured but never refused.
    """

    def __init__(
        self,
        metrics: CallMetrics,
        *,
        max_concurrent_calls: int,
        slow_call_seconds: float,
        unlimited: frozenset[str] = frozenset(),
    ) -> None:
        self._metrics = metrics
        self._limit = max_concurrent_calls
        self._slow_call_seconds = slow_call_seconds
        self._unlimited = unlimited
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(  # noqa: D102 - grpc's own
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or path.startswith(_EXEMPT):
            return handler
        wrapped = self._wrapped[path] = self._wrap(path, handler)
        return wrapped

    def _wrap(
        self, path: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        service, method = path.lstrip("/").split("/")
        call = _Call(
            path,
            cast("UnaryHandler", handler.unary_unary),
            self._metrics.of(service, method),
            limit=None if path in self._unlimited else self._limit,
            slow_call_seconds=self._slow_call_seconds,
        )
        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


class _Call:
    """One method with everything around it."""

    def __init__(
        self,
        path: str,
        handler: UnaryHandler,
        metrics: MethodMetrics,
        *,
        limit: int | None,
        slow_call_seconds: float,
    ) -> None:
        self._path = path
        self._handler = handler
        self._metrics = metrics
        self._limit = limit
        self._slow_call_seconds = slow_call_seconds
        self._in_flight = 0

    async def __call__(self, request: Any, context: Context) -> Any:
        if self._limit is not None and self._in_flight >= self._limit:
            self._metrics.shed.inc()
            await self._abort(OverloadedError(f"{self._limit} calls are in flight"), context, 0.0)
        started = time.perf_counter()
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            answer = await self._handler(request, context)
        except asyncio.CancelledError:
            # The caller went away or its deadline passed; there is nobody to answer.
            self._finish("CANCELLED", time.perf_counter() - started, context)
            raise
        except grpc.aio.AbortError:
            self._finish("ABORTED", time.perf_counter() - started, context)
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence; it is logged
            await self._abort(error, context, time.perf_counter() - started)
        else:
            self._finish("OK", time.perf_counter() - started, context)
            return answer
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    async def _abort(self, error: Exception, context: Context, seconds: float) -> None:
        if isinstance(error, CallError):
            code, message = code_of(error), str(error)
        else:
            # The text of an unforeseen exception is for us, not for callers.
            logger.error("%s failed", self._path, exc_info=error)
            code, message = grpc.StatusCode.INTERNAL, "internal error; see the server's log"
        self._finish(code.name, seconds, context)
        await context.abort(code, message)

    def _finish(self, code: str, seconds: float, context: Context) -> None:
        self._metrics.observe(code, seconds)
        notable = code != "OK" or seconds >= self._slow_call_seconds
        level = logging.INFO if notable else logging.DEBUG
        if logger.isEnabledFor(level):
            metadata = dict(context.invocation_metadata() or ())
            logger.log(
                level,
                "%s %s %.1f ms",
                self._path,
                code,
                seconds * 1000,
                extra={"request_id": metadata.get("x-request-id")},
            )
