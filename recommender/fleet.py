"""All addresses of one kind of backend, and which releases each can be asked for."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from recommender.backends import NONE_TAKEN_DOWN, Backend
from recommender.domain import Int64s
from recommender.patience import Patience
from recommender.split import Split
from service_runtime.errors import (
    BackendUnavailableError,
    CallError,
    OutOfTimeError,
    ReleaseNotHeldError,
)
from service_runtime.tls import CallerTls

__all__ = ["Fleet"]

logger = logging.getLogger(__name__)

BackendT = TypeVar("BackendT", bound=Backend)

_STATUS_TIMEOUT_SECONDS = 0.5
_FAILURES_IN_A_ROW = 3
_FAILING_SECONDS = 0.05
"""Many calls may be late in one moment in which a server stands still, and that is no hang."""
_PAUSE_SECONDS = 0.25
_MAX_PAUSE_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_FIRST_PATIENCE_SECONDS = 0.02
_LEAST_PATIENCE_SECONDS = 0.005
"""So long an answer may take by chance: asking twice would cost more than it could bring."""
_RETRIES_PER_CALL = 0.1
_RETRY_BURST = 10.0


@dataclass
class _Member(Generic[BackendT]):
    """An address in use; `ready` is None while it does not answer polls or its calls fail."""

    backend: BackendT
    poll: asyncio.Task[None]
    generation: int
    """Of the certificate that it is connected to with; 0 without TLS."""
    ready: frozenset[int] | None = None
    split: Split | None = None
    taken_down: Int64s = field(default_factory=lambda: NONE_TAKEN_DOWN)
    failures: int = 0
    """Calls in a row that timed out."""
    failing_since: float = 0.0
    """When the first of them did."""
    pause_seconds: float = 0.0
    """For how long time-outs keep it out; longer each time until a call succeeds."""
    out_until: float = 0.0


class Fleet(Generic[BackendT]):
    """Follows the addresses of a name and polls each of them by itself.

    `connect` makes the client of an address; `addresses` answers those that the name has now;
    `on_change` is called after anything that may change which release is the one to use; with a
    new certificate of `tls` every address is connected to anew.
    """

    def __init__(  # noqa: PLR0913 - each has a user
        self,
        kind: str,
        addresses: Callable[[], Awaitable[Iterable[str]]],
        connect: Callable[[str], BackendT],
        on_change: Callable[[], None],
        *,
        poll_seconds: float,
        resolve_seconds: float,
        tls: CallerTls | None = None,
    ) -> None:
        self._kind = kind
        self._addresses = addresses
        self._connect = connect
        self._on_change = on_change
        self._poll_seconds = poll_seconds
        self._resolve_seconds = resolve_seconds
        self._tls = tls
        self._members: dict[str, _Member[BackendT]] = {}
        self._holders: Mapping[int, tuple[BackendT, ...]] = {}
        self._taken_down: Int64s = NONE_TAKEN_DOWN
        self._turn = 0
        self._patience = Patience()
        self._retries = _RETRY_BURST

    @property
    def holders(self) -> Mapping[int, tuple[BackendT, ...]]:
        """Name the backends that are ready for each release."""
        return self._holders

    @property
    def answering(self) -> int:
        """Count the addresses that answered when last asked."""
        return sum(member.ready is not None for member in self._members.values())

    @property
    def loaded(self) -> int:
        """Count those of them that hold a release: one that starts holds none yet."""
        return sum(bool(member.ready) for member in self._members.values())

    @property
    def split(self) -> Split | None:
        """Answer the split that was set last, of those that the addresses told."""
        told = [member.split for member in self._members.values() if member.split is not None]
        return max(told, key=lambda split: split.changed_at_ms, default=None)

    @property
    def taken_down(self) -> Int64s:
        """Answer the articles that any address says are taken down, int64[n], ascending."""
        return self._taken_down

    def pick(self, release: int) -> BackendT | None:
        """Choose a holder of the release, each in turn; None where there is none."""
        holders = self._holders.get(release)
        if not holders:
            return None
        self._turn += 1
        return holders[self._turn % len(holders)]

    def second_chance(self, release: int, first: BackendT) -> BackendT | None:
        """Choose another holder to try after `first`, None where there is none.

        Retries are a tenth of the calls at the most: under overload, when every call is late, they
        must not double the load.
        """
        others = [held for held in self._holders.get(release, ()) if held is not first]
        # Not by turns: a call that looks for a second would take the turn of the next one's first.
        return random.choice(others) if others and self._retries >= 1 else None  # noqa: S311

    def retried(self) -> None:
        """Count a retry."""
        self._retries -= 1

    @property
    def patience_seconds(self) -> float:
        """Answer how long it makes sense to wait for an address before another one is asked."""
        return max(self._patience.seconds or _FIRST_PATIENCE_SECONDS, _LEAST_PATIENCE_SECONDS)

    def succeeded(self, backend: BackendT, seconds: float) -> None:
        """Count a call that was answered after `seconds`."""
        self._patience.learn(seconds)
        self._retries = min(_RETRY_BURST, self._retries + _RETRIES_PER_CALL)
        member = self._members.get(backend.address)
        if member is not None:
            member.failures = 0
            member.pause_seconds = 0.0

    def failed(self, backend: BackendT, release: int, error: CallError) -> None:
        """Count a call that failed; an address that is away is left out until it answers a poll,
        so is one that hangs again and again: what is known to be dead costs no call and no wait.
        One that has dropped the release is not asked for it again.

        Time-outs never take the last holder of the release away: they may say more about the
        caller's deadline than about the server, and other callers have longer ones.
        """
        member = self._members.get(backend.address)
        if member is None:
            return
        if isinstance(error, BackendUnavailableError):
            self._learn(member, None, str(error))
        elif isinstance(error, ReleaseNotHeldError) and member.ready is not None:
            self._learn(member, member.ready - {release}, str(error))
        elif isinstance(error, OutOfTimeError):
            self._timed_out(member, release, str(error))

    def _timed_out(self, member: _Member[BackendT], release: int, why: str) -> None:
        now = time.monotonic()
        if not member.failures:
            member.failing_since = now
        member.failures += 1
        lasts = now - member.failing_since >= _FAILING_SECONDS
        hangs = lasts and member.failures >= _FAILURES_IN_A_ROW
        others = any(held is not member.backend for held in self._holders.get(release, ()))
        if hangs and member.ready and others:
            self._pause(member)
            self._learn(member, None, why)

    def _pause(self, member: _Member[BackendT]) -> None:
        """Keep a slow address out although it answers polls; when it is back one more time-out is
        enough to take it out again.
        """
        member.pause_seconds = min(
            max(2 * member.pause_seconds, _PAUSE_SECONDS), _MAX_PAUSE_SECONDS
        )
        member.out_until = time.monotonic() + member.pause_seconds
        member.failures = _FAILURES_IN_A_ROW - 1

    async def run(self) -> None:
        """Follow the name until cancelled; then close all connections."""
        try:
            # A group, so that a poll that fails for a reason of ours ends the run and is seen.
            async with asyncio.TaskGroup() as polls:
                while True:
                    await self._follow(frozenset(await self._addresses()), polls)
                    await self._renew(polls)
                    await asyncio.sleep(self._resolve_seconds)
        finally:
            for member in self._members.values():
                await member.backend.close(0)

    async def _follow(self, addresses: frozenset[str], polls: asyncio.TaskGroup) -> None:
        for address in addresses - self._members.keys():
            logger.info("%s %s: new address", self._kind, address)
            poll = polls.create_task(self._poll(address))
            self._members[address] = _Member(self._connect(address), poll, self._generation)
        for address in self._members.keys() - addresses:
            logger.info("%s %s: address gone", self._kind, address)
            member = self._members.pop(address)
            member.poll.cancel()
            self._reckon()
            self._reckon_taken_down()
            # Calls under way are let finish; nobody is to wait for that.
            polls.create_task(member.backend.close(_CLOSE_SECONDS))

    @property
    def _generation(self) -> int:
        return 0 if self._tls is None else self._tls.generation

    async def _renew(self, polls: asyncio.TaskGroup) -> None:
        """Connect anew with a new certificate, before the old one expires on some reconnection.

        An address that does not take it keeps its connection, and is tried again next time.
        """
        if self._tls is not None:
            self._tls.look_again()
        for address, member in self._members.items():
            if member.generation != self._generation:
                await self._reconnect(address, member, polls)

    async def _reconnect(
        self, address: str, member: _Member[BackendT], polls: asyncio.TaskGroup
    ) -> None:
        connected, generation = self._connect(address), self._generation
        try:
            await connected.status(_STATUS_TIMEOUT_SECONDS)
        except CallError as error:
            logger.warning("%s %s: new certificate: %s", self._kind, address, error)
            await connected.close(0)
            return
        before, member.backend, member.generation = member.backend, connected, generation
        self._reckon()
        polls.create_task(before.close(_CLOSE_SECONDS))

    async def _poll(self, address: str) -> None:
        while True:
            member = self._members[address]
            try:
                status = await member.backend.status(_STATUS_TIMEOUT_SECONDS)
            except CallError as error:
                self._learn(member, None, str(error))
            else:
                self._learn_split(member, status.split)
                self._learn_taken_down(member, status.taken_down)
                if time.monotonic() >= member.out_until:
                    self._learn(member, status.ready, "")
            await asyncio.sleep(self._poll_seconds)

    def _learn_split(self, member: _Member[BackendT], split: Split | None) -> None:
        if split is not None and split != member.split:
            member.split = split
            self._on_change()

    def _learn_taken_down(self, member: _Member[BackendT], article_ids: Int64s) -> None:
        if article_ids is not member.taken_down:
            member.taken_down = article_ids
            self._reckon_taken_down()

    def _reckon_taken_down(self) -> None:
        # Of all: one that follows late must not bring back what another has taken down.
        known = [each.taken_down for each in self._members.values()]
        self._taken_down = np.unique(np.concatenate([NONE_TAKEN_DOWN, *known]))

    def _learn(self, member: _Member[BackendT], ready: frozenset[int] | None, why: str) -> None:
        if member.ready == ready or member.backend.address not in self._members:
            return
        if ready is None:
            logger.warning("%s %s: out of use: %s", self._kind, member.backend.address, why)
        else:
            logger.info("%s %s: ready for %s", self._kind, member.backend.address, sorted(ready))
        member.ready = ready
        self._reckon()

    def _reckon(self) -> None:
        holders: dict[int, tuple[BackendT, ...]] = {}
        for member in self._members.values():
            for release in member.ready or ():
                holders[release] = (*holders.get(release, ()), member.backend)
        self._holders = holders
        self._on_change()
