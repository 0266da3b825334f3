"""All addresses of one kind of backend, and which releases each can be asked for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

from recommender.clients import Backend
from service_runtime.errors import CallError

__all__ = ["Fleet"]

logger = logging.getLogger(__name__)

BackendT = TypeVar("BackendT", bound=Backend)

_STATUS_TIMEOUT_SECONDS = 0.5


class Fleet(Generic[BackendT]):
    """Follows the addresses of a name and polls each of them by itself.

    `connect` makes the client of an address; `addresses` answers those that the name has now;
    `on_change` is called after anything that may change which release is the one to use.
    """

    def __init__(
        self,
        kind: str,
        addresses: Callable[[], Awaitable[Iterable[str]]],
        connect: Callable[[str], BackendT],
        on_change: Callable[[], None],
        *,
        poll_seconds: float,
        resolve_seconds: float,
    ) -> None:
        self._kind = kind
        self._addresses = addresses
        self._connect = connect
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._resolve_seconds = resolve_seconds
        self._members: dict[str, tuple[BackendT, asyncio.Task[None]]] = {}
        self._ready: dict[BackendT, frozenset[int] | None] = {}  # None: does not answer
        self._holders: Mapping[int, tuple[BackendT, ...]] = {}
        self._turn = 0

    @property
    def holders(self) -> Mapping[int, tuple[BackendT, ...]]:
        """Name the backends that are ready for each release."""
        return self._holders

    @property
    def answering(self) -> int:
        """Count the addresses that answered when last asked."""
        return sum(ready is not None for ready in self._ready.values())

    def pick(self, release: int, *, other_than: BackendT | None = None) -> BackendT | None:
        """Choose a holder of the release in turn; None where there is no (other) one."""
        holders = [held for held in self._holders.get(release, ()) if held is not other_than]
        if not holders:
            return None
        self._turn += 1
        return holders[self._turn % len(holders)]

    def suspect(self, backend: BackendT) -> None:
        """Leave a backend out until it has answered a poll again."""
        if self._ready.get(backend) is not None:
            self._learn(backend, None, "a call failed")

    async def run(self) -> None:
        """Follow the name until cancelled; then close all connections."""
        try:
            # A group, so that a poll that fails for a reason of ours ends the run and is seen.
            async with asyncio.TaskGroup() as polls:
                while True:
                    await self._follow(await self._resolved(), polls)
                    await asyncio.sleep(self._resolve_seconds)
        finally:
            for backend, _ in self._members.values():
                await backend.close()

    async def _resolved(self) -> frozenset[str]:
        """Answer the addresses of now; those known before when the resolver does not answer."""
        try:
            return frozenset(await self._addresses())
        except OSError as error:
            logger.warning("%s: %s", self._kind, error)
            return frozenset(self._members)

    async def _follow(self, addresses: frozenset[str], polls: asyncio.TaskGroup) -> None:
        for address in addresses - self._members.keys():
            backend = self._connect(address)
            logger.info("%s %s: new address", self._kind, address)
            self._ready[backend] = None
            self._members[address] = backend, polls.create_task(self._poll(backend))
        for address in self._members.keys() - addresses:
            backend, task = self._members.pop(address)
            logger.info("%s %s: address gone", self._kind, address)
            task.cancel()
            del self._ready[backend]
            self._reckon()
            await backend.close()

    async def _poll(self, backend: BackendT) -> None:
        while True:
            try:
                ready = await backend.ready_releases(_STATUS_TIMEOUT_SECONDS)
            except CallError as error:
                self._learn(backend, None, str(error))
            else:
                self._learn(backend, ready, "")
            await asyncio.sleep(self._poll_seconds)

    def _learn(self, backend: BackendT, ready: frozenset[int] | None, why: str) -> None:
        if backend not in self._ready or self._ready[backend] == ready:
            return
        if ready is None:
            logger.warning("%s %s: out of use: %s", self._kind, backend.address, why)
        else:
            logger.info("%s %s: ready for %s", self._kind, backend.address, sorted(ready))
        self._ready[backend] = ready
        self._reckon()

    def _reckon(self) -> None:
        holders: dict[int, tuple[BackendT, ...]] = {}
        for backend, ready in self._ready.items():
            for release in ready or ():
                holders[release] = (*holders.get(release, ()), backend)
        self._holders = holders
        self._on_change()
