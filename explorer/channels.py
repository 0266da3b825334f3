"""Connections to the parts: one for each address, each found anew when its name says so."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Final

import grpc

from explorer.config import ExplorerSettings, Target
from explorer.errors import StartupError

__all__ = ["Channels", "Tls", "addresses_of", "read_tls"]

_OPTIONS: Final = (
    # A part that comes back is seen to be back within one look of the page.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
)


class Tls:
    """What connections are opened with where the parts speak TLS."""

    def __init__(self, credentials: grpc.ChannelCredentials, name: str | None) -> None:
        self.credentials = credentials
        self._name = name

    def options(self, host: str) -> tuple[tuple[str, str], ...]:
        """Say whose certificate is expected; addresses are spoken to by number."""
        return (("grpc.ssl_target_name_override", self._name or host),)


def read_tls(settings: ExplorerSettings) -> Tls | None:
    """Read the files, once; None where the parts are spoken to without TLS.

    Raises StartupError naming the variables. gRPC would take anything, and then fail every call.
    """
    ca, certificate, key = settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file
    if ca is None and certificate is None and key is None:
        return None
    if ca is None:
        raise StartupError("EXPLORER_TLS_CA_FILE: needed with a certificate")
    if (certificate is None) != (key is None):
        raise StartupError("EXPLORER_TLS_CERT_FILE and EXPLORER_TLS_KEY_FILE: one needs the other")
    try:
        # First, and not by OpenSSL, which names no file that it cannot read.
        pem = [_bytes(file) for file in (ca, key, certificate)]
        context = ssl.create_default_context()
        context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        credentials = grpc.ssl_channel_credentials(*pem)
    except ssl.SSLError as error:
        raise StartupError(f"EXPLORER_TLS_*_FILE: {error.reason or error}") from error
    except OSError as error:
        raise StartupError(f"EXPLORER_TLS_*_FILE: {error.filename}: {error.strerror}") from error
    return Tls(credentials, settings.tls_name)


def _bytes(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


class Channels:
    """Opens a channel at the first use of an address and keeps it."""

    def __init__(self, tls: Tls | None = None) -> None:
        self._tls = tls
        self._open: dict[tuple[str, str], grpc.aio.Channel] = {}

    def to(self, address: str, host: str) -> grpc.aio.Channel:
        """Answer the channel to one `ip:port`, which `host` was resolved to."""
        if (address, host) not in self._open:
            self._open[address, host] = self._connect(address, host)
        return self._open[address, host]

    def _connect(self, address: str, host: str) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        options = (*_OPTIONS, *self._tls.options(host))
        return grpc.aio.secure_channel(address, self._tls.credentials, options=options)

    async def close(self) -> None:
        """Hang up everywhere."""
        await asyncio.gather(*(channel.close() for channel in self._open.values()))


async def addresses_of(target: Target, seconds: float) -> tuple[str, ...]:
    """Answer `ip:port` of every address of a name, IPv4 where there is any.

    Raises OSError, naming the host, when it cannot be resolved or not in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise OSError(f"cannot resolve {target.host} in {seconds:g} s") from error
    except (OSError, UnicodeError) as error:  # the latter for what can be no name at all
        raise OSError(f"cannot resolve {target.host}: {error}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    first_family = [entry[4][0] for entry in found if entry[0] == found[0][0]]
    return tuple(str(Target(str(ip), target.port)) for ip in sorted(set(first_family)))
