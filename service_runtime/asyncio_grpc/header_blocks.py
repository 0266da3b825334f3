"""Header blocks (HPACK, RFC 7541), from bytes and to bytes.

Blocks are written without Huffman's code and without the dynamic table: a few bytes more, and the
same call is the same bytes each time. They are read by the `hpack` library, once each: what a block
means is remembered until the table that it refers to changes.
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

from service_runtime.asyncio_grpc.errors import ErrorCode, ProtocolError

__all__ = ["MAX_BLOCK_BYTES", "MAX_LIST_BYTES", "BlockReader", "Headers", "block", "list_bytes"]

Headers = tuple[tuple[str, str], ...]

MAX_LIST_BYTES: Final = 16_384
"""The most that headers should take, by HTTP/2's count; more costs their call only."""

MAX_BLOCK_BYTES: Final = 65_536
"""The most that a block may take; more costs the connection."""
_MAX_READ_BYTES: Final = 4 * MAX_BLOCK_BYTES

# What is remembered of a connection stays small whatever it sends.
_REMEMBERED: Final = 256
_REMEMBERED_BYTES: Final = 512
_REMEMBERED_LIST_BYTES: Final = 2048

# Of the static table (RFC 7541, appendix A), what is said in one byte.
_WHOLE: Final = {
    (":method", "POST"): b"\x83",
    (":scheme", "http"): b"\x86",
    (":scheme", "https"): b"\x87",
    (":status", "200"): b"\x88",
}
_NAMES: Final = {":authority": 1, ":path": 4, ":status": 8, "content-type": 31, "user-agent": 58}


class _WatchedTable(HeaderTable):
    """A dynamic table that tells of each entry: one more, and the others have other numbers."""

    additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


MeaningT = TypeVar("MeaningT")


class BlockReader(Generic[MeaningT]):
    """Reads the blocks of one connection, each of them and in their order."""

    def __init__(self, meaning: Callable[[Headers], MeaningT]) -> None:
        """`meaning`: what to make of headers; called once for the same block."""
        self._meaning = meaning
        self._decoder = Decoder(_MAX_READ_BYTES)
        self._table = self._decoder.header_table = _WatchedTable()
        self._known: dict[bytes, MeaningT] = {}

    def read(self, data: bytes) -> MeaningT:
        """Answer what a block says. Raises ProtocolError for what is no block, or too much."""
        known = self._known.get(data)
        if known is not None:
            return known
        additions = self._table.additions
        try:
            fields = self._decoder.decode(data, raw=True)
            headers = tuple((_text(name), _text(value)) for name, value in fields)
        except (HPACKError, IndexError, ValueError) as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"headers: {error}") from None
        meaning = self._meaning(headers)
        if self._table.additions != additions or len(self._known) == _REMEMBERED:
            self._known.clear()
        small = list_bytes(headers) <= _REMEMBERED_LIST_BYTES and _can_be_known(data)
        if small and self._table.additions == additions:
            self._known[data] = meaning
        return meaning


def list_bytes(headers: Headers) -> int:
    """Answer how much headers are, as MAX_HEADER_LIST_SIZE counts (RFC 9113, section 6.5.2)."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


def _can_be_known(data: bytes) -> bool:
    # A change of the table's size stands at the start or nowhere (RFC 7541, section 6.3).
    return 0 < len(data) <= _REMEMBERED_BYTES and data[0] & 0xE0 != 0x20


def _text(text: bytes) -> str:
    # Headers may hold any byte; latin-1 keeps them apart without failing.
    return text.decode("latin-1")


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Lay headers out as literals that nobody has to remember."""
    return b"".join(_WHOLE.get(header) or _literal(*header) for header in headers)


def _literal(name: str, value: str) -> bytes:
    index = _NAMES.get(name)
    start = b"\x00" + _string(name) if index is None else _integer(index, 4)
    return start + _string(value)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    return _integer(len(data), 7) + data


def _integer(value: int, prefix_bits: int) -> bytes:
    """Lay out an integer (RFC 7541, section 5.1) whose first byte has no other bits."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((value,))
    data, value = bytearray((most,)), value - most
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)
