"""Several processes of one server behind one port, since one has the interpreter of one core."""

import asyncio
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from enum import Enum, auto
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service_runtime.background import BackgroundTasks
from service_runtime.errors import StartupError
from service_runtime.metrics import metrics_endpoint
from service_runtime.process import run_with
from service_runtime.server import announce
from service_runtime.settings import ServerSettings, SettingsT
from service_runtime.transports import taken_address

__all__ = ["ServeWorker", "Worker", "run_workers"]

_METRICS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
_SPARE_SECONDS: Final = 5.0


class _Word(Enum):
    """What workers and the one that started them say to each other."""

    LISTENING = auto()
    READY = auto()
    SERVE = auto()


class _Line:
    """One end of a pipe, read in the event loop; it ends with the process at the other end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._said = {word: asyncio.Event() for word in _Word}

    def say(self, word: _Word) -> None:
        """Tell the other end; one that is gone is noticed by `follow`."""
        try:
            self._connection.send(word)
        except BrokenPipeError:
            return

    async def said(self, word: _Word) -> None:
        """Return once the other end has said this word."""
        await self._said[word].wait()

    async def follow(self) -> None:
        """Take in what the other end says until it ends."""
        while True:
            await self._readable()
            try:
                self._said[self._connection.recv()].set()
            except (EOFError, ConnectionResetError):
                return

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._connection.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._connection.fileno())


class Worker:
    """What a server has to know when it is one of several behind `port`."""

    def __init__(self, port: int, line: _Line) -> None:
        self.port = port
        self._line = line

    def listens(self) -> None:
        """Tell that calls can arrive."""
        self._line.say(_Word.LISTENING)

    async def all_ready(self) -> None:
        """Tell that this one is ready, and return once all are.

        A health check reaches any of them, and speaks for all.
        """
        self._line.say(_Word.READY)
        await self._line.said(_Word.SERVE)


ServeWorker = Callable[[SettingsT, asyncio.Event, Worker], Awaitable[None]]
"""Serves until the event is set; a function of a module, since other processes import it."""


async def run_workers(
    settings: SettingsT, count: int, serve: ServeWorker[SettingsT], stop: asyncio.Event
) -> None:
    """Run `count` processes of a server behind one port, and their metrics on another, until `stop`
    is set; then let them drain. The kernel gives each connection to one of them.

    Raises StartupError where a port is taken, and when a worker ends by itself: then the others
    drain, and whoever runs this process starts it anew.
    """
    async with AsyncExitStack() as stack:
        port = stack.enter_context(_reserved(settings))
        values = stack.enter_context(tempfile.TemporaryDirectory(prefix="metrics-"))
        team = [_start(settings, serve, port, values, number) for number in range(count)]
        stack.push_async_callback(_end, settings, team)
        registry = _registry(values, [member.process for member in team])
        metrics_port = stack.enter_context(
            metrics_endpoint(settings.host, settings.metrics_port, registry)
        )
        background = await stack.enter_async_context(BackgroundTasks())
        background.start(
            *(member.follow() for member in team),
            _conduct(
                [member.line for member in team],
                lambda: announce(settings.ready_file, port, metrics_port),
            ),
        )
        await background.run_until(stop)


class _Member:
    """A worker as seen by the one that started it."""

    def __init__(self, number: int, process: SpawnProcess, line: _Line) -> None:
        self.process = process
        self.line = line
        self._number = number

    async def follow(self) -> None:
        """Take in what it says; raises StartupError when it ends."""
        await self.line.follow()
        await asyncio.to_thread(self.process.join)
        raise StartupError(
            f"worker {self._number} ended with code {self.process.exitcode}; its lines say why"
        )


async def _conduct(lines: Sequence[_Line], on_listening: Callable[[], None]) -> None:
    for line in lines:
        await line.said(_Word.LISTENING)
    on_listening()
    for line in lines:
        await line.said(_Word.READY)
    for line in lines:
        line.say(_Word.SERVE)


def _start(
    settings: SettingsT, serve: ServeWorker[SettingsT], port: int, values: str, number: int
) -> _Member:
    # Not forked: gRPC's threads would be missing in the child.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work, args=(settings, serve, port, theirs), name=f"worker-{number}"
    )
    os.environ[_METRICS_DIRECTORY] = values  # read when prometheus_client is imported
    try:
        process.start()
    finally:
        del os.environ[_METRICS_DIRECTORY]
        theirs.close()  # or its end would not be seen
    return _Member(number, process, _Line(ours))


def _work(
    settings: SettingsT, serve: ServeWorker[SettingsT], port: int, connection: Connection
) -> None:
    async def serve_worker(settings: SettingsT, stop: asyncio.Event) -> None:
        line = _Line(connection)

        async def end_with_parent() -> None:
            await line.follow()
            stop.set()

        async with BackgroundTasks() as background:
            background.start(end_with_parent())
            await serve(settings, stop, Worker(port, line))

    sys.exit(run_with(settings, serve_worker))


async def _end(settings: ServerSettings, team: Sequence[_Member]) -> None:
    for member in team:
        member.process.terminate()
    await asyncio.gather(*(asyncio.to_thread(_join, settings, one.process) for one in team))


def _join(settings: ServerSettings, process: SpawnProcess) -> None:
    process.join(settings.drain_notice_seconds + settings.drain_seconds + _SPARE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


@contextmanager
def _reserved(settings: ServerSettings) -> Iterator[int]:
    """Hold the port for the workers, and answer it; raises StartupError where it is taken."""
    host = settings.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # Sockets that share a port do so with any of their user's that asks for it: so first
            # see that nobody listens.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, settings.port))
            probe.listen(1)
            port: int = probe.getsockname()[1]
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))  # and not listen: no connection comes here
    except OSError as error:
        raise taken_address(settings.address(settings.port)) from error
    with held:
        yield port


def _registry(values: str, processes: Iterable[SpawnProcess]) -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=values)  # type: ignore[no-untyped-call]
    registry.register(_ProcessesCollector(processes))
    return registry


class _ProcessesCollector(Collector):
    """The usual `process_*` figures, of each worker."""

    def __init__(self, processes: Iterable[SpawnProcess]) -> None:
        self._collectors = [
            ProcessCollector(pid=lambda pid=process.pid: pid, registry=None)  # type: ignore[misc]
            for process in processes
        ]

    def collect(self) -> Iterable[Metric]:
        """Answer each figure once, with a sample for each worker."""
        found: dict[str, Metric] = {}
        for number, collector in enumerate(self._collectors):
            for metric in collector.collect():
                labelled = found.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    labelled.add_sample(sample.name, {"worker": str(number)}, sample.value)
        return found.values()
