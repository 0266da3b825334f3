"""TLS from files of PEM, which may be replaced while a server runs.

Certificates live for weeks or hours, servers for longer: files are looked at again for every
handshake (a server's) or whenever channels are looked after (a caller's), and what is new counts
from then on. Connections that are there go on.
"""

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from service_runtime.errors import StartupError
from service_runtime.settings import ServerSettings

__all__ = ["CallerTls", "ServerTls", "TlsFiles", "server_tls"]

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class _UnusableError(Exception):
    """The files are no certificate and key that belong together; the message says why."""


@dataclass(frozen=True)
class _Pem:
    certificate: bytes
    key: bytes
    ca: bytes
    """Each empty where there is no such file."""
    context: ssl.SSLContext
    """The same, for connections of the event loop."""


@dataclass(frozen=True)
class TlsFiles:
    """A certificate chain with its key, and the CA that the other side's must be of."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def stamp(self) -> _Stamp:
        """Answer what differs once a file was replaced. Raises OSError."""
        stats = [each.stat() for each in self._all()]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)

    def read(self, purpose: ssl.Purpose) -> _Pem:
        """Read them, if OpenSSL finds them to be in order. Raises OSError and _UnusableError.

        gRPC would take anything, and refuse every handshake without a word on why.
        """
        context = _new_context(purpose)
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            if self.ca is not None:
                context.load_verify_locations(self.ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            names = ", ".join(map(str, self._all()))
            raise _UnusableError(f"{names}: {error.reason or error}") from error
        except OSError:
            self._contents()  # says which file it is; OpenSSL does not
            raise
        # Only now: read before the check, they could be half of a replacement that it did not see.
        return _Pem(*self._contents(), context)

    def _contents(self) -> tuple[bytes, bytes, bytes]:
        certificate, key, ca = (b"" if f is None else f.read_bytes() for f in self._in_order())
        return certificate, key, ca

    def _in_order(self) -> tuple[Path | None, ...]:
        return (self.certificate, self.key, self.ca)

    def _all(self) -> Sequence[Path]:
        return [each for each in self._in_order() if each is not None]


class _Watched:
    """Files that are read again when they were replaced; broken ones are told of once."""

    def __init__(self, files: TlsFiles, purpose: ssl.Purpose) -> None:
        self._files = files
        self._purpose = purpose
        self._stamp = files.stamp()
        self.pem = files.read(purpose)

    def has_changed(self) -> bool:
        """Read what was replaced since. What cannot be used changes nothing."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self.pem = self._files.read(self._purpose)
        except (OSError, _UnusableError) as error:
            logger.warning("TLS: going on with the certificate of before: %s", error)
            return False
        logger.info("TLS: a new certificate is in use")
        return True


def _new_context(purpose: ssl.Purpose) -> ssl.SSLContext:
    # Not ssl.create_default_context: a caller would believe every CA of the machine, too.
    is_server = purpose is ssl.Purpose.CLIENT_AUTH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


class ServerTls:
    """What a server that speaks TLS listens with; files that were replaced count from then on."""

    def __init__(self, watched: _Watched, *, asks_callers: bool) -> None:
        """`asks_callers`: only those with a certificate of the CA get through."""
        self._watched = watched
        self._asks_callers = asks_callers

    def context(self) -> ssl.SSLContext:
        """Make it for the event loop."""
        context = self._watched.pem.context

        def choose(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
            self._watched.has_changed()
            connection.context = self._watched.pem.context

        context.sni_callback = choose  # called with or without a name, before anything is shown
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """Make it for `grpc.aio`."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # None says that nothing is new, which the types of grpc do not know.
            lambda: self._configuration() if self._watched.has_changed() else None,  # type: ignore[arg-type,return-value]
            require_client_authentication=self._asks_callers,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pem = self._watched.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], pem.ca or None
        )


def server_tls(settings: ServerSettings) -> ServerTls | None:
    """Make what a server listens with; None where it is to listen without TLS.

    With a client CA only callers with a certificate of it get through. Raises StartupError naming
    the variable.
    """
    files = TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    if files == TlsFiles():
        return None
    prefix = str(settings.model_config.get("env_prefix"))
    if files.certificate is None or files.key is None:
        raise StartupError(f"{prefix}TLS_CERT_FILE and {prefix}TLS_KEY_FILE: one needs the other")
    watched = _watch(files, ssl.Purpose.CLIENT_AUTH, f"{prefix}TLS_*_FILE")
    return ServerTls(watched, asks_callers=files.ca is not None)


class CallerTls:
    """What channels to servers that speak TLS are opened with."""

    def __init__(self, files: TlsFiles, name: str, variables: str) -> None:
        """`name`: what the servers' certificates are for; addresses are spoken to by number.

        Raises StartupError, naming the `variables`.
        """
        if (files.certificate is None) != (files.key is None):
            raise StartupError(f"{variables}: a certificate needs its key")
        self._watched = _watch(files, ssl.Purpose.SERVER_AUTH, variables)
        self.generation = 0
        """Counts up once files were replaced: channels of before have the old certificate."""
        self.name: Final = name
        self.options: Final = (("grpc.ssl_target_name_override", name),)

    def look_again(self) -> None:
        """Find out whether files were replaced."""
        self.generation += self._watched.has_changed()

    def context(self) -> ssl.SSLContext:
        """Answer what a new channel of the event loop is opened with."""
        return self._watched.pem.context

    def credentials(self) -> grpc.ChannelCredentials:
        """Make the credentials of a new channel of `grpc.aio`."""
        pem = self._watched.pem
        return grpc.ssl_channel_credentials(pem.ca, pem.key or None, pem.certificate or None)


def _watch(files: TlsFiles, purpose: ssl.Purpose, variables: str) -> _Watched:
    try:
        return _Watched(files, purpose)
    except OSError as error:
        raise StartupError(f"{variables}: {error.filename}: {error.strerror}") from error
    except _UnusableError as error:
        raise StartupError(f"{variables}: {error}") from error
