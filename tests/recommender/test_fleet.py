"""Which addresses of a kind of backend count for what; the backends are objects in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from recommender.backends import Status
from recommender.fleet import Fleet
from service_runtime.errors import BackendUnavailableError, OutOfTimeError


class Server:
    """Holds what it is told; None: it is away."""

    def __init__(self, address: str, ready: set[int] | None) -> None:
        self.address = address
        self.ready = ready
        self.connections = 0

    async def status(self, timeout_seconds: float) -> Status:
        if self.ready is None:
            raise BackendUnavailableError("away")
        return Status(frozenset(self.ready))

    async def close(self, grace_seconds: float) -> None:
        return


class Certificate:
    """Replaced when `generation` counts up."""

    generation = 0

    def look_again(self) -> None:
        return


@asynccontextmanager
async def following(*servers: Server, tls: Any = None) -> AsyncIterator[Fleet]:
    """A fleet of these, once each was polled."""
    by_address = {server.address: server for server in servers}

    async def addresses() -> list[str]:
        return list(by_address)

    def connect(address: str) -> Server:
        by_address[address].connections += 1
        return by_address[address]

    fleet = Fleet(
        "part",
        addresses,
        connect,
        lambda: None,
        poll_seconds=60,
        resolve_seconds=0.001,
        tls=tls,
    )
    running = asyncio.create_task(fleet.run())
    try:
        await until(lambda: fleet.answering == sum(server.ready is not None for server in servers))
        yield fleet
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_that_holds_nothing_answers_and_is_not_loaded():
    async with following(Server("a", {2, 1}), Server("b", set()), Server("c", None)) as fleet:
        assert (fleet.answering, fleet.loaded) == (2, 1)


async def test_time_outs_take_no_last_holder_away_whoever_else_answers(monkeypatch):
    monkeypatch.setattr("recommender.fleet._FAILING_SECONDS", 0.0)
    holder, starting, behind = Server("a", {2, 1}), Server("b", set()), Server("c", {1})
    async with following(holder, starting, behind) as fleet:
        for _ in range(5):
            fleet.failed(holder, 2, OutOfTimeError("late"))
        assert fleet.holders[2] == (holder,)
        assert set(fleet.holders[1]) == {holder, behind}
        fleet.failed(holder, 1, OutOfTimeError("late"))
        assert fleet.holders == {1: (behind,)}


async def test_many_time_outs_in_one_moment_are_no_hang(monkeypatch):
    held_up, other = Server("a", {1}), Server("b", {1})
    monkeypatch.setattr("recommender.fleet._FAILING_SECONDS", 3600.0)
    async with following(held_up, other) as fleet:
        for _ in range(20):
            fleet.failed(held_up, 1, OutOfTimeError("late"))
        assert set(fleet.holders[1]) == {held_up, other}
        monkeypatch.setattr("recommender.fleet._FAILING_SECONDS", 0.0)
        fleet.failed(held_up, 1, OutOfTimeError("late"))
        assert fleet.holders[1] == (other,)


async def test_who_has_the_new_certificate_is_left_alone_while_others_are_tried_again():
    certificate = Certificate()
    sound, dead = Server("a", {1}), Server("b", {1})
    async with following(sound, dead, tls=certificate):
        assert (sound.connections, dead.connections) == (1, 1)
        dead.ready = None
        certificate.generation = 1
        await until(lambda: dead.connections > 5)
        assert sound.connections == 2
