"""From a backend's name to the addresses that answer for it.

Names are resolved here and not by a round-robin channel: that would describe another replica
than the one that serves.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import cast

__all__ = ["Target", "parse_targets", "resolve"]


@dataclass(frozen=True, slots=True)
class Target:
    """A name or address, and the port."""

    host: str
    port: int


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read comma-separated `host:port`.

    Raises ValueError naming the part that is not of that form.
    """
    targets = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{part.strip()!r} is not host:port")
        targets.append(Target(host.strip("[]"), int(port)))
    return tuple(targets)


async def resolve(targets: tuple[Target, ...]) -> frozenset[str]:
    """Answer the `ip:port` of every address of every target.

    Raises OSError naming the host when one cannot be resolved now.
    """
    loop = asyncio.get_running_loop()
    found: set[str] = set()
    for target in targets:
        try:
            answers = await loop.getaddrinfo(
                target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:
            raise OSError(f"cannot resolve {target.host}: {error.strerror}") from error
        for family, *_, address in answers:
            host, port = cast("tuple[str, int]", address[:2])
            found.add(f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}")
    return frozenset(found)
