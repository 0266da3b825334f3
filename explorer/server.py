"""The HTTP server: listens, tells where, and ends in good order."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from explorer.app import make_app
from explorer.channels import Channels, read_tls
from explorer.config import ExplorerSettings, Target
from explorer.errors import StartupError
from explorer.titles import read_titles

__all__ = ["serve"]

_GRACE_SECONDS: Final = 3


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: uvicorn's own way ends the process by the signal, not with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: ExplorerSettings) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Raises StartupError when a file cannot be read or the port is taken.
    """
    titles, channels = read_titles(settings.items), Channels(read_tls(settings))
    app = make_app(settings, channels, titles)
    server = _Server(
        uvicorn.Config(
            app, lifespan="off", ws="none", access_log=False, log_level="warning",
            server_header=False, timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )  # fmt: skip

    def end() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        with _listening(settings) as listener:
            _announce(settings, listener.getsockname()[1])
            await server.serve(sockets=[listener])
    finally:
        await channels.close()


def _listening(settings: ExplorerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise StartupError(
            f"EXPLORER_HOST, EXPLORER_PORT: cannot listen on {settings.host}:{settings.port}: "
            f"{error.strerror}"
        ) from error


def _announce(settings: ExplorerSettings, port: int) -> None:
    """Print the page's address, and write the port to the ready file, if any."""
    if settings.ready_file is not None:
        partial = settings.ready_file.with_name(settings.ready_file.name + ".partial")
        try:
            partial.write_text(json.dumps({"port": port, "pid": os.getpid()}))
            partial.rename(settings.ready_file)
        except OSError as error:
            raise StartupError(
                f"EXPLORER_READY_FILE: {settings.ready_file}: {error.strerror}"
            ) from error
    print(f"explorer: http://{Target(settings.host, port)}/", flush=True)
