"""From a backend's name to the addresses that answer for it.

Names are resolved here and not by a round-robin channel: that would describe another replica
than the one that serves.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import dns.asyncresolver
import dns.exception

from recommender.trouble import Trouble

__all__ = ["Addresses", "LookUp", "Target", "dns_look_up", "parse_targets", "system_look_up"]

_DNS_SECONDS = 2.0

LookUp = Callable[[str], Awaitable[list[str]]]
"""Answers the IP addresses of a host name; raises OSError naming the host."""


@dataclass(frozen=True, slots=True)
class Target:
    """A name or address, and the port."""

    host: str
    port: int


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read comma-separated `host:port`.

    Raises ValueError naming the part that is not of that form, or whose host can be no name.
    """
    targets = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{part.strip()!r} is not host:port")
        try:
            host.encode("idna")
        except UnicodeError as error:
            # A look-up would raise the same, which is no OSError and comes from no resolver.
            raise ValueError(f"{part.strip()!r} has no host name: {error}") from None
        targets.append(Target(host.strip("[]"), int(port)))
    return tuple(targets)


async def system_look_up(host: str) -> list[str]:
    """Ask the machine's resolver."""
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(f"cannot resolve {host}: {error.strerror}") from error
    return [cast("str", address[0]) for *_, address in answers]


def dns_look_up(server: Target) -> LookUp:
    """Make a look-up of A records that asks one DNS server, an IP address and a port."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [server.host]
    resolver.port = server.port
    resolver.lifetime = _DNS_SECONDS

    async def look_up(host: str) -> list[str]:
        if _is_ip_address(host):
            return [host]
        try:
            answer = await resolver.resolve(host, "A", search=False)
        except dns.exception.Timeout as error:  # its own text tells how long, each time another
            raise OSError(f"cannot resolve {host}: no answer in {_DNS_SECONDS:g} s") from error
        except (dns.exception.DNSException, OSError) as error:
            raise OSError(f"cannot resolve {host}: {error}") from error
        return [record.to_text() for record in answer]

    return look_up


class Addresses:
    """Follows the addresses of several targets; `part` is what log lines call them.

    Each target is looked up by itself: one that does not resolve keeps the addresses that it had,
    and hides no other.
    """

    def __init__(self, part: str, targets: tuple[Target, ...], look_up: LookUp) -> None:
        self._look_up = look_up
        self._known: dict[Target, frozenset[str]] = {target: frozenset() for target in targets}
        self._troubles = {target: Trouble(part) for target in targets}

    async def now(self) -> frozenset[str]:
        """Answer the `ip:port` of every address of every target."""
        await asyncio.gather(*map(self._follow, self._known))
        return frozenset().union(*self._known.values())

    async def _follow(self, target: Target) -> None:
        try:
            found = await self._look_up(target.host)
        except OSError as error:
            self._troubles[target].tell(str(error))
            return
        self._troubles[target].over()
        hosts = (f"[{address}]" if ":" in address else address for address in found)
        self._known[target] = frozenset(f"{host}:{target.port}" for host in hosts)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
