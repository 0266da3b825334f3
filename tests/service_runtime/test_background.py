"""Work beside the calls that fails is seen, whenever it fails."""

import asyncio

import pytest

from service_runtime.background import BackgroundTasks


async def fails() -> None:
    raise ZeroDivisionError("it failed")


async def test_what_failed_before_anybody_waited_is_raised():
    async with asyncio.timeout(10), BackgroundTasks() as background:
        background.start(fails(), asyncio.Event().wait())
        await asyncio.sleep(0)  # it fails meanwhile
        with pytest.raises(ZeroDivisionError, match="it failed"):
            await background.run_until(asyncio.Event())


async def test_what_fails_while_somebody_waits_is_raised():
    async with asyncio.timeout(10), BackgroundTasks() as background:
        background.start(fails())
        with pytest.raises(ZeroDivisionError, match="it failed"):
            await background.run_until(asyncio.Event())


async def test_what_has_ended_well_ends_nothing():
    stop = asyncio.Event()
    async with asyncio.timeout(10), BackgroundTasks() as background:
        background.start(asyncio.sleep(0))
        running = asyncio.create_task(background.run_until(stop))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not running.done()
        stop.set()
        await running
