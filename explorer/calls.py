"""Calls that end with an answer and its time, or with an error in the page's words."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from explorer.errors import CallFailedError

__all__ = ["Stopwatch", "calling"]


@dataclass
class Stopwatch:
    """How long the call took; 0 until it has ended."""

    milliseconds: float = 0.0


@asynccontextmanager
async def calling(part: str, address: str) -> AsyncIterator[Stopwatch]:
    """Time what is awaited inside; a gRPC error becomes a CallFailedError of that part."""
    stopwatch, began = Stopwatch(), time.perf_counter()
    try:
        yield stopwatch
    except grpc.aio.AioRpcError as error:
        raise CallFailedError(part, address, error.code().name, error.details() or "") from error
    finally:
        stopwatch.milliseconds = 1000.0 * (time.perf_counter() - began)
