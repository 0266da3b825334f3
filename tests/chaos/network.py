"""`python -m tests.chaos.network PLAN READY_FILE`: names, and links that misbehave on command.

PLAN is JSON: `records`, the addresses of each name, and `links`, a list of [name, listen, target].
The ready file tells the ports of DNS and control. The control port takes lines `name NAME
ADDRESS,...`, which gives a name other addresses, and `link NAME MODE`; the modes of a link:
    pass        forward
    delay       forward what the client sends 50 ms later
    drop        forward nothing; what arrives meanwhile is forwarded afterwards, as TCP would
    half-close  end the stream towards the client, of new connections too, and go on reading
"""

import asyncio
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.dns import dns_server

__all__ = ["DELAY_SECONDS"]

DELAY_SECONDS = 0.05
_CHUNK_BYTES = 1 << 16


class _Link:
    """One listening address and where it leads."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._mode = "pass"
        self._changed = asyncio.Condition()
        self._clients: set[asyncio.StreamWriter] = set()

    async def turn(self, mode: str) -> None:
        async with self._changed:
            self._mode = mode
            self._changed.notify_all()
        if mode == "half-close":
            for client in self._clients:
                _end_stream(client)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            await self._serve(reader, writer)
        except OSError:
            pass  # whichever end went away, the other is told by the close below
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "half-close":
            _end_stream(writer)
            while await reader.read(_CHUNK_BYTES):
                pass
            return
        await self._open()
        there, back = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.create_task(self._pump(reader, back, delayed=True)),
            asyncio.create_task(self._pump(there, writer, delayed=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, delayed: bool
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(queue, sink))
        try:
            while data := await source.read(_CHUNK_BYTES):
                late = DELAY_SECONDS if delayed and self._mode == "delay" else 0.0
                queue.put_nowait((time.monotonic() + late, data))
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(
        self, queue: "asyncio.Queue[tuple[float, bytes]]", sink: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - time.monotonic())
            await self._open()
            with suppress(RuntimeError):  # the stream was ended by half-close
                sink.write(data)
                await sink.drain()

    async def _open(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._mode != "drop")


def _end_stream(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        writer.write_eof()


class _Network:
    """All names and links."""

    def __init__(self, records: dict[str, list[str]]) -> None:
        self.records = records
        self._links: dict[str, _Link] = {}

    async def open(self, name: str, listen: str, target: str) -> None:
        self._links[name] = link = _Link(target)
        host, _, port = listen.rpartition(":")
        await asyncio.start_server(link.connected, host, int(port))

    async def obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            kind, name, value = line.decode().split()
            if kind == "name":
                self.records[name] = value.split(",")
            else:
                await self._links[name].turn(value)
            writer.write(b"done\n")
        writer.close()


async def _main(plan: dict[str, Any], ready_file: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    network = _Network(plan["records"])
    for link in plan["links"]:
        await network.open(*link)
    control = await asyncio.start_server(network.obey, "127.0.0.1", 0)
    async with dns_server(network.records) as (dns, _):
        partial = ready_file.with_suffix(".partial")
        ports = {"dns": dns, "control": control.sockets[0].getsockname()[1]}
        partial.write_text(json.dumps(ports))
        partial.rename(ready_file)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1]), Path(sys.argv[2])))
