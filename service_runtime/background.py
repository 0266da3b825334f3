"""Work that goes on beside the calls. If any of it fails, the process must not live on without."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

__all__ = ["BackgroundTasks"]


class BackgroundTasks:
    """Tasks that end with the context."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, *work: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
        """Run each of `work` as a task of its own; it may be cancelled sooner than all."""
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        self._tasks.update(tasks)
        return tasks

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raise what a task raised, before this was called or since."""
        stopped = asyncio.create_task(stop.wait())
        self._tasks.add(stopped)
        while True:
            for task in self._tasks:
                if task.done():
                    task.result()
            if stopped.done():
                return
            running = {task for task in self._tasks if not task.done()}
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
