"""What the headers of a call say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc

from service_runtime.asyncio_grpc.header_blocks import MAX_LIST_BYTES, Headers, list_bytes
from service_runtime.asyncio_grpc.messages import ENCODINGS
from service_runtime.asyncio_grpc.metadata import (
    QUOTED,
    Metadata,
    metadata_of,
    seconds_of_timeout,
    status_headers,
)

__all__ = ["OK_HEADERS", "CallDetails", "RequestHead", "request_head"]

OK_HEADERS: Final[Headers] = ((":status", "200"), ("content-type", "application/grpc"))
_NAMES: Final = frozenset({":method", ":scheme", ":authority", ":path"})
_METHOD_NOT_ALLOWED: Final[Headers] = ((":status", "405"), ("allow", "POST"))
_UNSUPPORTED_MEDIA: Final[Headers] = ((":status", "415"),)
_COMPRESSED: Final[Headers] = (("grpc-accept-encoding", ENCODINGS),)


class CallDetails(grpc.HandlerCallDetails):
    """What handlers are looked up by."""

    def __init__(self, method: str, invocation_metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The headers of a call, read."""

    details: CallDetails
    timeout_seconds: float | None = None
    encoding: str = "identity"
    is_malformed: bool = False
    """These are no headers of a request; trailers of one, maybe."""
    refusal: Headers = ()
    """Answer this, and nothing else; empty: there is nothing against the call."""


_NOBODY: Final = CallDetails("", ())
_MALFORMED: Final = RequestHead(_NOBODY, is_malformed=True)


def request_head(headers: Headers) -> RequestHead:
    """Read the headers of a call."""
    found = dict(headers)
    pseudo = [name for name, _ in headers if name[:1] == ":"]
    if (
        len(pseudo) != len(set(pseudo))
        or not {":method", ":path"} <= set(pseudo) <= _NAMES
        or any(not name or name != name.lower() for name in found)
    ):
        return _MALFORMED
    if list_bytes(headers) > MAX_LIST_BYTES:
        return _refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"headers are {MAX_LIST_BYTES} bytes at the most"
        )
    if found[":method"] != "POST":
        return RequestHead(_NOBODY, refusal=_METHOD_NOT_ALLOWED)
    if not _is_grpc(found.get("content-type", "")):
        return RequestHead(_NOBODY, refusal=_UNSUPPORTED_MEDIA)
    return _head_of_call(found, headers)


def _head_of_call(found: Mapping[str, str], headers: Headers) -> RequestHead:
    try:
        metadata = metadata_of(headers)
        timeout = found.get("grpc-timeout")
        seconds = None if timeout is None else seconds_of_timeout(timeout)
    except ValueError as error:
        return _refused(grpc.StatusCode.INTERNAL, str(error))
    encoding = found.get("grpc-encoding", "identity")
    if encoding not in ENCODINGS.split(","):
        text = f"messages compressed by {encoding[:QUOTED]!r} are not read, only by {ENCODINGS}"
        return _refused(grpc.StatusCode.UNIMPLEMENTED, text, _COMPRESSED)
    return RequestHead(CallDetails(found[":path"], metadata), seconds, encoding)


def _refused(code: grpc.StatusCode, text: str, more: Headers = ()) -> RequestHead:
    return RequestHead(_NOBODY, refusal=(*OK_HEADERS, *status_headers(code, text), *more))


def _is_grpc(content_type: str) -> bool:
    kind = content_type.split(";", 1)[0].strip().lower()
    return kind == "application/grpc" or kind.startswith("application/grpc+")
