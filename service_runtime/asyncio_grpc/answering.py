"""From a call to the handler of its method, and from what that returns to an answer."""

import asyncio
import inspect
import logging
from contextlib import aclosing
from typing import Any, Protocol

import grpc

from service_runtime.asyncio_grpc.messages import MessageError
from service_runtime.asyncio_grpc.request_head import CallDetails
from service_runtime.asyncio_grpc.server_call import MethodHandler, ServerCall

__all__ = ["Methods", "answer"]

logger = logging.getLogger(__name__)


class Methods(Protocol):
    """The methods of a server."""

    is_stopping: bool
    """Whether it takes no more calls."""

    def handler(self, details: CallDetails) -> MethodHandler | None:
        """Answer a method's handler, None where there is no such method."""

    async def intercepted(self, call: ServerCall) -> MethodHandler | None:
        """Answer the handler that this call goes to."""


async def answer(methods: Methods, call: ServerCall) -> None:
    """Answer a call, or end it by the status of what went wrong."""
    try:
        await _handle(methods, call)
    except grpc.aio.AbortError:
        call.end_as_set()
    except MessageError as error:
        call.end(error.code, str(error))
    except asyncio.CancelledError:
        call.end(grpc.StatusCode.CANCELLED, "the call was given up")
        raise
    except Exception:
        logger.exception("%s failed", call.details_of_call.method)
        call.end(grpc.StatusCode.UNKNOWN, "internal error; see the server's log")


async def _handle(methods: Methods, call: ServerCall) -> None:
    handler = await methods.intercepted(call)
    if handler is None:
        call.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return
    read, call.serialize = _reader(handler), handler.response_serializer
    request: Any = (
        call.each_message(read) if handler.request_streaming else read(call.only_message())
    )
    if handler.response_streaming:
        behaviour = handler.stream_stream or handler.unary_stream
        await _write_all(call, behaviour(request, call))
        call.end_as_set()
    else:
        behaviour = handler.unary_unary or handler.stream_unary
        response = await behaviour(request, call)
        call.answer(response if call.serialize is None else call.serialize(response))


def _reader(handler: MethodHandler) -> Any:
    deserialize = handler.request_deserializer
    if deserialize is None:
        return bytes

    def read(message: bytes) -> Any:
        try:
            return deserialize(message)
        except Exception:  # noqa: BLE001 - whatever a deserializer raises, the message is at fault
            raise MessageError(
                grpc.StatusCode.INTERNAL, "the request is not a message of this method"
            ) from None

    return read


async def _write_all(call: ServerCall, produced: Any) -> None:
    if inspect.isasyncgen(produced):
        async with aclosing(produced):
            async for response in produced:
                await call.write(response)
    else:
        await produced
