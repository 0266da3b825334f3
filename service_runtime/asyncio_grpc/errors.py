"""What can be wrong with a connection or with one stream of it."""

from enum import IntEnum
from typing import Final

import grpc

__all__ = ["ErrorCode", "ProtocolError", "StreamError", "status_of_http", "status_of_reset"]


class ErrorCode(IntEnum):
    """HTTP/2's codes (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ProtocolError(Exception):
    """The other side broke the rules; the connection cannot go on."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamError(Exception):
    """One stream cannot go on; the others can."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


# "gRPC over HTTP2", table "HTTP2 error code mapping".
_RESETS: Final = {
    ErrorCode.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}

# gRPC's doc/http-grpc-status-mapping.md: what a proxy without gRPC may answer.
_HTTP: Final = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


def status_of_reset(code: int) -> grpc.StatusCode:
    """Answer what a caller is told of a stream that was reset."""
    try:
        return _RESETS.get(ErrorCode(code), grpc.StatusCode.INTERNAL)
    except ValueError:
        return grpc.StatusCode.INTERNAL


def status_of_http(status: int) -> grpc.StatusCode:
    """Answer what a caller is told of an answer without a gRPC status."""
    return _HTTP.get(status, grpc.StatusCode.UNKNOWN)
