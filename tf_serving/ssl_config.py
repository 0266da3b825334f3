"""`python -m tf_serving.ssl_config`: writes what TensorFlow Serving's --ssl_config_file reads.

That file holds the PEM texts themselves, and not their paths, so it is made anew with each
certificate; TensorFlow Serving reads it once, when it starts.
"""

import argparse
import os
import ssl
import sys
from pathlib import Path

from google.protobuf import text_format
from recsys.tfserving.v1 import ssl_config_pb2

__all__ = ["write"]


def write(certificate: Path, key: Path, client_ca: Path | None, into: Path) -> None:
    """Write the file in one step, for its owner only: the key is in it.

    Raises OSError; ssl.SSLError where certificate and key do not belong together.
    """
    for each in filter(None, (certificate, key, client_ca)):
        each.read_bytes()  # which names one that cannot be read; OpenSSL does not
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
    config = ssl_config_pb2.SSLConfig(
        server_key=key.read_text(),
        server_cert=certificate.read_text(),
        custom_ca="" if client_ca is None else client_ca.read_text(),
        client_verify=client_ca is not None,
    )
    partial = into.with_name(into.name + ".partial")
    # Not Path.write_text: nobody else may read it from the first moment on.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text_format.MessageToString(config))
    partial.replace(into)


def main() -> int:
    """Run the command line; answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tf_serving.ssl_config", description=__doc__)
    parser.add_argument("--cert", type=Path, required=True, help="certificate chain, PEM")
    parser.add_argument("--key", type=Path, required=True, help="its key, PEM")
    parser.add_argument("--client-ca", type=Path, help="CA that callers need a certificate of, PEM")
    parser.add_argument("--out", type=Path, required=True, help="for --ssl_config_file")
    given = parser.parse_args()
    try:
        write(given.cert, given.key, given.client_ca, given.out)
    except ssl.SSLError as error:
        print(f"{given.cert}, {given.key}: {error.reason or error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
