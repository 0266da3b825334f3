"""`python -m loadtest.bench.null_call`: what a `grpc.aio` call costs that does nothing.

A server in a process of its own answers 800 bytes by 800 bytes, as much as a user vector or a list
of 100 ids; one caller asks again once answered. A companion: see `loadtest.bench.companion`.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, Any, Final, cast

import grpc
import uvloop

from loadtest.bench.companion import answer_lines
from loadtest.latencies import Latencies
from local_stack.processes import tied_to_this_process

_METHOD: Final = "/bench.Null/Call"
_MESSAGE: Final = bytes(800)
_SERVE: Final = "serve"


async def _serve() -> None:
    async def answer(request: bytes, _: Any) -> bytes:
        return request

    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Null", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _ask(port: int, seconds: float) -> Latencies:
    latencies = Latencies()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Callable[..., Any] = channel.unary_unary(_METHOD)
        await call(_MESSAGE)
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            await call(_MESSAGE)
            latencies.record(time.perf_counter() - started)
    return latencies


def main() -> None:
    """Serve, or start a server and measure as often as asked."""
    if sys.argv[1:] == [_SERVE]:
        uvloop.run(_serve())
        return
    command = tied_to_this_process([sys.executable, "-m", "loadtest.bench.null_call", _SERVE])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(cast("IO[str]", server.stdout).readline())
            answer_lines(lambda seconds: {"call": uvloop.run(_ask(port, seconds)).encode()})
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
