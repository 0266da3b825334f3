"""Certificates of a CA of the test's own, laid down as a secret store lays them down."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from service_runtime.tls import CallerTls, TlsFiles

SERVER_NAME = "backend.internal"


@dataclass
class Files:
    """PEM files of one party, as a secret store lays them down."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def write(self, leaf: trustme.LeafCert | None, ca: trustme.CA) -> "Files":
        """Replace each file in one step."""
        self.folder.mkdir(exist_ok=True)
        contents = {self.ca: ca.cert_pem.bytes()}
        if leaf is not None:
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            contents |= {self.certificate: chain, self.key: leaf.private_key_pem.bytes()}
        for path, data in contents.items():
            partial = path.with_suffix(".partial")
            partial.write_bytes(data)
            partial.replace(path)
        return self

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server listens with that wants a certificate of its callers too."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], self.ca.read_bytes(), require_client_auth=True)

    def caller(self, *, shows: bool = True, name: str = SERVER_NAME) -> CallerTls:
        shown = TlsFiles(self.certificate, self.key, self.ca) if shows else TlsFiles(ca=self.ca)
        return CallerTls(shown, name, "CALLER_TLS_*_FILE")
