"""`python -m loadtest.bench.null_call`: what a call costs that does nothing, by each transport.

A server in a process of its own answers 800 bytes by 800 bytes, as much as a user vector or a list
of 100 ids; callers ask again once answered. By itself it measures each transport at either side, in
turns, and prints a table. As a companion of the bench (`companion`, see `loadtest.bench.companion`)
it measures `grpc.aio` with one caller.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import IO, Any, Final, cast

from service_runtime.grpc_environment import prepare_grpc

prepare_grpc()

import grpc
import uvloop

from loadtest.bench.companion import answer_lines
from loadtest.latencies import Latencies
from loadtest.usage import UsageMeter
from local_stack.processes import tied_to_this_process
from service_runtime.asyncio_grpc.server import Limits
from service_runtime.asyncio_grpc.server import Server as AsyncioServer
from service_runtime.channels import Channel, open_channel
from service_runtime.settings import Transport

_METHOD: Final = "/bench.Null/Call"
_MESSAGE: Final = bytes(800)
_WARM_UP_CALLS: Final = 50
_HEAD: Final = (
    "client   server   callers  p50 ms  p99 ms   calls/s  client us  switches  server us  switches"
)
_TRANSPORTS: Final[tuple[Transport, ...]] = ("grpcio", "asyncio")
_CLIENTS: Final = (1, 16)
_LIMITS: Final = Limits(
    max_message_bytes=4 * 1024 * 1024,
    max_streams=1024,
    max_age_seconds=3600.0,
    age_grace_seconds=1.0,
    min_ping_seconds=10.0,
)


async def _answer(request: bytes, _: Any) -> bytes:
    return request


async def _serve(transport: Transport) -> None:
    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(_answer)}
    services = (grpc.method_handlers_generic_handler("bench.Null", handlers),)
    if transport == "asyncio":
        ours = AsyncioServer(_LIMITS)
        ours.add_generic_rpc_handlers(services)
        port = await ours.listen("127.0.0.1", 0)
    else:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(services)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


async def _ask(channel: Channel, clients: int, seconds: float) -> Latencies:
    latencies = Latencies()
    call = channel.unary_unary(_METHOD)
    for _ in range(_WARM_UP_CALLS):
        await call(_MESSAGE)
    end = time.perf_counter() + seconds

    async def keep_asking() -> None:
        while (started := time.perf_counter()) < end:
            await call(_MESSAGE)
            latencies.record(time.perf_counter() - started)

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    await channel.close(0)
    return latencies


@contextmanager
def _server(transport: Transport) -> Iterator[tuple[int, int]]:
    """Start a server; answers its process id and its port."""
    command = [sys.executable, "-m", "loadtest.bench.null_call", "serve", transport]
    with subprocess.Popen(
        tied_to_this_process(command), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            port = int(cast("IO[str]", server.stdout).readline())
            yield server.pid, port
        finally:
            server.terminate()


def _by_call(meter: UsageMeter, calls: int) -> list[float]:
    """Answer microseconds of CPU and context switches of the one process, for each call."""
    (used,) = meter.since(0.0).by_process.values()
    return [used.cpu_seconds / calls * 1e6, used.context_switches / calls]


def _asker(transport: Transport, port: int, clients: int, seconds: float) -> dict[str, Any]:
    async def measure() -> tuple[Latencies, list[float]]:
        channel = open_channel(f"127.0.0.1:{port}", transport)
        meter = UsageMeter({"client": os.getpid()})
        latencies = await _ask(channel, clients, seconds)
        return latencies, _by_call(meter, latencies.count + _WARM_UP_CALLS)

    latencies, spent = uvloop.run(measure())
    p50, p99 = latencies.percentile_ms(50), latencies.percentile_ms(99)
    return {"p50": p50, "p99": p99, "calls": latencies.count, "spent": spent}


def _measured(client: Transport, server: Transport, clients: int, seconds: float) -> list[float]:
    """Answer p50 and p99 in ms, calls/s, and CPU in µs and switches of client and of server."""
    with _server(server) as (pid, port):
        meter = UsageMeter({"server": pid})
        command = ["ask", client, str(port), str(clients), str(seconds)]
        asked = subprocess.run(
            tied_to_this_process([sys.executable, "-m", "loadtest.bench.null_call", *command]),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(asked.stdout)
        calls = found["calls"]
        spent = _by_call(meter, calls + _WARM_UP_CALLS)
    return [found["p50"], found["p99"], calls / seconds, *found["spent"], *spent]


def _compare(rounds: int, seconds: float) -> None:
    cases = list(product(_CLIENTS, _TRANSPORTS, _TRANSPORTS))
    found: dict[Any, list[list[float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            clients, client, server = case
            found[case].append(_measured(client, server, clients, seconds))
    print(_HEAD)
    for (clients, client, server), measured in found.items():
        p50, p99, rate, *spent = map(statistics.median, zip(*measured, strict=True))
        client_us, client_switches, server_us, server_switches = spent
        print(
            f"{client:8} {server:8} {clients:7} {p50:7.3f} {p99:7.3f} {rate:9,.0f} "
            f"{client_us:10.0f} {client_switches:9.1f} {server_us:10.0f} {server_switches:9.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare; or be one of the processes that takes."""
    parser = argparse.ArgumentParser("python -m loadtest.bench.null_call", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    roles = parser.add_subparsers(dest="role", metavar="")
    roles.add_parser("companion")
    roles.add_parser("serve").add_argument("transport", choices=_TRANSPORTS)
    ask = roles.add_parser("ask")
    ask.add_argument("transport", choices=_TRANSPORTS)
    ask.add_argument("port", type=int)
    ask.add_argument("clients", type=int)
    ask.add_argument("seconds", type=float)
    options = parser.parse_args(arguments)
    if options.role == "serve":
        uvloop.run(_serve(options.transport))
    elif options.role == "ask":
        print(json.dumps(_asker(options.transport, options.port, options.clients, options.seconds)))
    elif options.role == "companion":
        with _server("grpcio") as (_, port):
            answer_lines(lambda seconds: {"call": uvloop.run(_one_caller(port, seconds)).encode()})
    else:
        _compare(options.rounds, options.seconds)


async def _one_caller(port: int, seconds: float) -> Latencies:
    return await _ask(open_channel(f"127.0.0.1:{port}", "grpcio"), 1, seconds)


if __name__ == "__main__":
    main()
