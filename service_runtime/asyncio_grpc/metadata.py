"""What gRPC says in headers: time-outs, metadata and statuses."""

import base64
import binascii
import math
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import grpc

from service_runtime.asyncio_grpc.header_blocks import Headers

__all__ = [
    "QUOTED",
    "Metadata",
    "headers_of_metadata",
    "metadata_of",
    "seconds_of_timeout",
    "small_number",
    "status_headers",
    "status_of",
    "timeout_of_seconds",
]

Metadata = tuple[tuple[str, str | bytes], ...]

_NAME: Final = re.compile("[0-9a-z_.-]+")  # "gRPC over HTTP2", Header-Name
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

QUOTED: Final = 50
"""So many characters of a request are quoted at the most: it makes no answer long."""

# Headers of the protocol are no metadata of the caller.
_RESERVED: Final = frozenset({"te", "content-type", "host"})


def timeout_of_seconds(seconds: float) -> str:
    """Write a time-out, in steps of about a hundredth: few values are few different headers."""
    if seconds < 0.1:
        return f"{max(1, math.ceil(seconds * 10_000)) * 100}u"
    if seconds < 10_000:
        return f"{math.ceil(seconds * 1000)}m"
    return f"{min(math.ceil(seconds), 99_999_999)}S"


def seconds_of_timeout(text: str) -> float:
    """Read a time-out. Raises ValueError for what is none."""
    digits, unit = text[:-1], text[-1:]
    if (
        unit not in _UNITS
        or not 0 < len(digits) <= 8
        or not (digits.isascii() and digits.isdigit())
    ):
        raise ValueError(
            f"grpc-timeout {text[:QUOTED]!r} is not up to eight digits and one of HMSmun"
        )
    return int(digits) * _UNITS[unit]


def metadata_of(headers: Headers) -> Metadata:
    """Answer what of the headers is metadata. Raises ValueError for bytes that are no base64."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name.startswith((":", "grpc-")) or name in _RESERVED:
            continue
        if name.endswith("-bin"):  # who passes headers on may join those of one name
            metadata.extend((name, _bytes_of(name, part)) for part in value.split(","))
        else:
            metadata.append((name, value))
    return tuple(metadata)


def _bytes_of(name: str, value: str) -> bytes:
    value = value.strip()
    try:
        # Without padding, as all write it; with some, as all must read it.
        return base64.b64decode(
            value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), validate=True
        )
    except binascii.Error:
        raise ValueError(f"metadata {name[:QUOTED]} is not base64") from None


def headers_of_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """Lay metadata out as headers. Raises ValueError for what cannot be one."""
    return tuple(_header_of(name, value) for name, value in metadata)


def _header_of(name: str, value: str | bytes) -> tuple[str, str]:
    if not _NAME.fullmatch(name) or name.startswith("grpc-"):
        raise ValueError(f"{name!r} cannot be the name of metadata")
    if isinstance(value, bytes):
        if name.endswith("-bin"):
            return name, base64.b64encode(value).rstrip(b"=").decode()
        value = value.decode("ascii")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {name}: {value!r} is more than printable ASCII")
    return name, value


def status_headers(code: grpc.StatusCode, details: str | None) -> Headers:
    """Lay a status out as trailers."""
    number = ("grpc-status", str(code.value[0]))
    if not details:
        return (number,)
    return (number, ("grpc-message", quote(details, safe=_PRINTABLE, errors="replace")))


def small_number(text: str) -> int:
    """Read a number of up to three digits, as statuses are; -1 for anything else."""
    return int(text) if len(text) <= 3 and text.isascii() and text.isdigit() else -1


def status_of(trailers: Headers) -> tuple[grpc.StatusCode, str] | None:
    """Read a status from trailers; None where there is none."""
    found = dict(trailers)
    if "grpc-status" not in found:
        return None
    number, message = found["grpc-status"], found.get("grpc-message", "")
    code = _CODES.get(small_number(number))
    text = unquote_to_bytes(message).decode(errors="replace") if message else ""
    return (grpc.StatusCode.UNKNOWN, text or number) if code is None else (code, text)
