"""The life of a server process: settings, logging, signals, exit code."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import uvloop

from service_runtime.errors import StartupError
from service_runtime.logs import configure_logging
from service_runtime.settings import ServerSettings, SettingsT, describe, load_settings

__all__ = ["run_process", "run_with", "settle_memory"]

# A thread that loads a release lets the one that answers have the interpreter after this long, and
# not after Python's 5 ms: a call asks for it several times.
_SWITCH_SECONDS = 0.0005


def run_process(
    kind: type[SettingsT], serve: Callable[[SettingsT, asyncio.Event], Awaitable[None]]
) -> int:
    """Run `serve` with the settings of the environment, see `run_with`."""
    if arguments := sys.argv[1:]:
        return _explain(kind, arguments)
    try:
        settings = load_settings(kind)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    return run_with(settings, serve)


def _explain(kind: type[ServerSettings], arguments: Sequence[str]) -> int:
    """Answer `--help` with the settings, their meaning and defaults; refuse anything else."""
    if set(arguments) <= {"-h", "--help"}:
        print(f"Serves until SIGTERM. Settings are environment variables:\n\n{describe(kind)}")
        return 0
    prefix = kind.model_config.get("env_prefix")
    print(f"{arguments[0]}: there are no arguments, set {prefix}*; see --help", file=sys.stderr)
    return 2


def run_with(
    settings: SettingsT, serve: Callable[[SettingsT, asyncio.Event], Awaitable[None]]
) -> int:
    """Run `serve` until SIGTERM or SIGINT sets its event; answer the exit code.

    A StartupError becomes one line on standard error and the code 1.
    """
    try:
        configure_logging(settings.log_level, settings.log_format)
        sys.setswitchinterval(_SWITCH_SECONDS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signalled(settings, serve))
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _until_signalled(
    settings: SettingsT, serve: Callable[[SettingsT, asyncio.Event], Awaitable[None]]
) -> None:
    # Under asyncio.run SIGTERM would end the process without any clean-up.
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


def settle_memory() -> None:
    """Take what was made so far out of garbage collection: it stays, and going through it again
    and again would stop calls for tens of milliseconds. Call it once everything is set up.
    """
    gc.collect()
    gc.freeze()
