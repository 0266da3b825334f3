"""Sends raw requests, many at once, and counts how the calls end."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any, Self

import grpc

from service_runtime.channels import grpcio_channel
from tests.fuzz.messages import RequestMaker
from tests.fuzz.targets import Target

__all__ = ["Sender", "Tally"]

_AT_ONCE = 16
_PATIENT_SECONDS = 10.0
_HASTY_SECONDS = 0.002
_HASTY_EVERY = 50
_MOST_EXAMPLES = 3


class Tally:
    """How the calls of one RPC ended."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.undocumented = 0
        self.shed = 0
        """Refused although there was time: too large, or for load."""
        self.examples: list[str] = []
        """The first few undocumented ends, with the request to repeat them."""

    @property
    def sent(self) -> int:
        """Calls that ended, however."""
        return self.codes.total()

    @property
    def read(self) -> int:
        """Calls that ended by what they asked, or for want of time."""
        return self.sent - self.shed

    def count(
        self, target: Target, request: bytes, code: str, message: str, *, hasty: bool = False
    ) -> bool:
        """Count one call; only a `hasty` one may end, or be refused, for want of time.

        Answers whether it was read.
        """
        self.codes[code] += 1
        is_shed = code == "RESOURCE_EXHAUSTED" and not hasty
        self.shed += is_shed
        if code not in target.codes or (code == "DEADLINE_EXCEEDED" and not hasty):
            self.undocumented += 1
            if len(self.examples) < _MOST_EXAMPLES:
                shown = request[:500].hex()
                self.examples.append(f"{target.name}: {code}: {message[:200]}: {shown}")
        return not is_shed


class Sender:
    """A channel to each server; `addresses` by the server's name."""

    def __init__(self, addresses: Mapping[str, str], seed: int) -> None:
        self._addresses = addresses
        self._random = Random(seed)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._cleanup = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for server, address in self._addresses.items():
            channel = grpcio_channel(address)
            self._channels[server] = await self._cleanup.enter_async_context(channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    async def send(self, target: Target, maker: RequestMaker, count: int, tally: Tally) -> None:
        """Send until so many were read, some at once, each answered before the next of its place.

        Those that are refused unread are made up for, up to a quarter of `count`.
        """
        left, spare = count, count // 4

        async def keep_sending() -> None:
            nonlocal left, spare
            while left:
                left -= 1
                if not await self._call(target, maker.make(), tally) and spare:
                    left, spare = left + 1, spare - 1

        await asyncio.gather(*(keep_sending() for _ in range(_AT_ONCE)))

    async def answers_well(self, targets: Sequence[Target]) -> bool:
        """Whether every good request is answered, or refused for what it asks, after all that."""
        tally = Tally()
        for target in targets:
            for request in target.valid:
                await self._call(target, request.SerializeToString(), tally, patient=True)
        return set(tally.codes) <= {"OK", "INVALID_ARGUMENT"} and tally.codes["OK"] > 0

    async def _call(
        self, target: Target, request: bytes, tally: Tally, *, patient: bool = False
    ) -> bool:
        hasty = not patient and self._random.randrange(_HASTY_EVERY) == 0
        call: Any = self._channels[target.server].unary_unary(target.path)
        timeout = _HASTY_SECONDS if hasty else _PATIENT_SECONDS
        try:
            await call(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
            return tally.count(target, request, code, details, hasty=hasty)
        return tally.count(target, request, "OK", "")
