"""What an index file holds, read before faiss parses it.

faiss trusts the lengths that a file states: it allocates what they say and indexes by what it read.
So the file is gone through first, field by field, as faiss writes it: every kind must be one that
is served, every length what follows from dimension, articles and lists, and the end of the last
field the end of the file. Vectors and codes are skipped.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.errors import RefusalReason, ReleaseRefusedError

__all__ = ["IndexLayout", "kinds_of", "read_layout"]

_INNER_PRODUCT: Final = 0
_NO_MAP, _ARRAY_MAP = 0, 1
_OFFSET_BITS: Final = 32
"""Of an entry of a direct map: the place in a list; above it is the list."""
_ID_BYTES: Final = 8
_MOST_PQ_BITS: Final = 16

# By faiss's number of the type: bits of a value, and how many numbers were trained for each.
_SCALAR_TYPES: Final = {0: (8, 2), 1: (4, 2), 4: (16, 0), 6: (6, 2), 7: (16, 0)}

_LISTS: Final = {"Flat": "IwFl", "SQ": "IwSq", "PQ": "IwPQ", "fs": "IwPf"}
_FINER: Final = {"RFlat": "IxFI", "Refine(Flat": "IxFI", "Refine(SQ": "IxSQ"}
_SQ: Final = r"SQ(?=(?:4|6|8|fp16|bf16)\b)"
_FACTORY: Final = re.compile(
    rf"(?P<rotation>(?:OPQ|RR)\w*,)?IVF\d+(?P<second>\(IVF\d+,Flat\))?,"
    rf"(?P<codes>Flat|{_SQ}|PQ(?:\d+x4(?P<blocks>fs)r?\b)?)\w*"
    rf"(?:,(?P<finer>RFlat|Refine\((?:Flat|{_SQ}))\w*\)?)?"
)

_IN_A_BLOCK: Final = 32
"""Codes of four bits that faiss scores at once."""
_NO_CODE_SIZE: Final = 2**64 - 1
"""What faiss writes where lists of blocks have no size of a single code."""


@dataclass(frozen=True)
class IndexLayout:
    """What a file says of itself, and adds up."""

    kinds: tuple[str, ...]
    """faiss's four letters of each index in it, from the outermost on."""
    dimension: int
    articles: int
    lists: int


def kinds_of(factory: str) -> tuple[str, ...]:
    """Answer the kinds in an index of this factory string; raises ValueError: it is not served."""
    match = _FACTORY.fullmatch(factory)
    if match is None or (match["blocks"] and not match["finer"]):
        raise ValueError(
            f"{factory!r} is not served: that is IVFn or IVFn(IVFm,Flat), with Flat, SQ… (4, 6, 8, "
            "fp16, bf16) or PQ…, OPQ… or RR… before it and RFlat or Refine(SQ…) after it if need "
            "be, which PQ…x4fs and PQ…x4fsr do need"
        )
    finer, rotation = match["finer"], match["rotation"]
    outer = [
        *(["IxMp"] if finer or rotation else []),
        *(["IxRF"] if finer else []),
        *(["IxPT"] if rotation else []),
    ]
    centres = ["IwFl", "IxFI"] if match["second"] else ["IxFI"]
    lists = _LISTS[match["blocks"] or match["codes"]]
    return (*outer, lists, *centres, *([_FINER[finer]] if finer else []))


def read_layout(path: Path) -> IndexLayout:
    """Go through an index file; raises ReleaseRefusedError naming file and reason."""
    try:
        with path.open("rb") as stream:
            walk = _Walk(stream)
            walk.whole()
    except OSError as error:
        raise ReleaseRefusedError(RefusalReason.FILES, f"{path}: {error.strerror}") from error
    except _StrangeError as error:
        unserved = error.reason == RefusalReason.INDEX
        message = f"{path}: {error}" if unserved else f"{path}: not readable: {error}"
        raise ReleaseRefusedError(error.reason, message) from None
    return IndexLayout(tuple(walk.kinds), walk.dimension, walk.articles, walk.lists)


class _StrangeError(Exception):
    def __init__(self, message: str, reason: RefusalReason = RefusalReason.FILES) -> None:
        super().__init__(message)
        self.reason = reason


class _Walk:
    """One way through a file, from its begin to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = os.fstat(stream.fileno()).st_size
        self.kinds: list[str] = []
        self.dimension = self.articles = self.lists = 0
        self._is_refined = False

    def whole(self) -> None:
        """Read everything; raises _StrangeError."""
        kind = self._kind("IxMp", *_LISTS.values())
        self.dimension, self.articles = self._counts(kind)
        if kind == "IxMp":
            self._refined_or_not()
            self._vector("article ids", self.articles, _ID_BYTES)
        else:
            self._lists_of(kind)
        if (rest := self._size - self._stream.tell()) != 0:
            raise _StrangeError(f"{rest} bytes follow the end of the index")

    def _refined_or_not(self) -> None:
        kind = self._kind("IxRF", "IxPT", *_LISTS.values())
        self._header(kind, self.articles)
        if kind == "IxRF":
            self._is_refined = True
            base = self._kind("IxPT", *_LISTS.values())
            self._header(base, self.articles)
            self._rotated_or_not(base)
            self._finer()
            self._skip("refine factor", 4)
        else:
            self._rotated_or_not(kind)

    def _rotated_or_not(self, kind: str) -> None:
        if kind == "IxPT":
            steps = self._number("<i4", "number of rotations")
            self._expect("number of rotations", steps, 1)
            self._rotation()
            kind = self._kind(*_LISTS.values())
            self._header(kind, self.articles)
        self._lists_of(kind)

    def _rotation(self) -> None:
        letters = self._letters()
        if letters not in {"rrot", "LTra"}:
            raise _StrangeError(f"{letters!r} is no rotation", RefusalReason.INDEX)
        self._expect("bias of the rotation", self._number("u1", "bias"), 0)
        self._vector("rotation", self.dimension**2, 4)
        self._vector("bias of the rotation", 0, 4)
        for side in ("columns", "rows"):
            name = f"{side} of the rotation"
            self._expect(name, self._number("<i4", name), self.dimension)
        if not self._flag("is_trained"):
            raise _StrangeError("the rotation is not trained", RefusalReason.INDEX)

    def _finer(self) -> None:
        """The finer vectors beside the codes."""
        kind = self._kind(*dict.fromkeys(_FINER.values()))
        self._header(kind, self.articles)
        if kind == "IxFI":
            self._vector("finer vectors", self.articles * self.dimension, 4)
        else:
            code_size = self._scalar_quantizer()
            self._vector("finer vectors", self.articles * code_size, 1)

    def _lists_of(self, kind: str) -> None:
        """What follows the header of an index with lists."""
        self.lists = self._list_count()
        self._centres()
        self._maybe_direct_map()
        if kind == "IwFl":
            code_size = 4 * self.dimension
        elif kind == "IwSq":
            code_size = self._scalar_quantizer()
            self._expect("code size", self._number("<u8", "code size"), code_size)
            self._flag("by_residual")
        elif kind == "IwPf":
            self._blocks_of_codes()
            return
        else:
            self._flag("by_residual")
            stated = self._number("<u8", "code size")
            code_size = self._product_quantizer()
            self._expect("code size", stated, code_size)
        self._list_sizes(self.lists, code_size, self.articles)
        self._skip("lists", self.articles * (code_size + _ID_BYTES))

    def _blocks_of_codes(self) -> None:
        """Codes of four bits, so many in a block, and the lists of blocks."""
        if not self._is_refined:
            raise _StrangeError("codes in blocks lack finer vectors", RefusalReason.INDEX)
        self._flag("by_residual")
        stated = self._number("<u8", "code size")
        self._expect("codes of a block", self._number("<i4", "codes of a block"), _IN_A_BLOCK)
        parts = self._number("<u8", "parts of a code in a block")
        # Nought leaves it to faiss how to search; nothing else was ever tried here.
        for name, dtype in (("implementation", "<i4"), ("queries of a block", "<i8")):
            self._expect(name, self._number(dtype, name), 0)
        self._expect("code size", stated, self._product_quantizer(bits_of_part=4))
        self._expect("parts of a code in a block", parts, 2 * stated)
        letters = self._letters()
        if letters != "ilbl":
            raise _StrangeError(f"lists of kind {letters!r} are not served", RefusalReason.INDEX)
        bytes_of_block = _IN_A_BLOCK * stated
        for name, expected in (
            ("number of lists", self.lists),
            ("code size of the lists", _NO_CODE_SIZE),
            ("codes of a block", _IN_A_BLOCK),
            ("bytes of a block", bytes_of_block),
        ):
            self._expect(name, self._number("<u8", name), expected)
        held = sum(self._list_of_blocks(bytes_of_block) for _ in range(self.lists))
        if held != self.articles:
            raise _StrangeError(
                f"the lists do not hold the {self.articles} that the header says",
                RefusalReason.INDEX,
            )

    def _list_of_blocks(self, bytes_of_block: int) -> int:
        """Answer how many articles are in a list."""
        size = self._number("<u8", "length of a list")
        self._skip("ids of a list", size * _ID_BYTES)
        blocks = -(-size // _IN_A_BLOCK)
        self._vector("codes of a list", blocks * bytes_of_block, 1)
        return size

    def _centres(self) -> None:
        """The coarse quantizer: centres in a row, or in lists of their own."""
        kind = self._kind("IxFI", "IwFl")
        self._header(kind, self.lists)
        if kind == "IxFI":
            self._vector("centres", self.lists * self.dimension, 4)
            return
        lists = self._list_count()
        flat = self._kind("IxFI")
        self._header(flat, lists)
        self._vector("centres", lists * self.dimension, 4)
        # Without it faiss ends the process where codes are of what is left after a centre.
        places = self._array_map(self.lists)
        sizes = self._list_sizes(lists, 4 * self.dimension, self.lists)
        # faiss goes by these without a look.
        of_list, in_list = places >> _OFFSET_BITS, places & ((1 << _OFFSET_BITS) - 1)
        if (of_list < 0).any() or (of_list >= lists).any() or (in_list >= sizes[of_list]).any():
            raise _StrangeError("the direct map of the centres points beside their lists")
        numbers = [self._ids_of_list(size, 4 * self.dimension) for size in sizes.tolist()]
        if (np.sort(np.concatenate(numbers)) != np.arange(self.lists)).any():
            raise _StrangeError("the centres are not numbered 0, 1, ...")

    def _list_count(self) -> int:
        lists = self._number("<u8", "number of lists")
        if not 1 <= lists <= self._size:
            raise _StrangeError(f"it states {lists} lists")
        self._skip("nprobe", 8)
        return lists

    def _array_map(self, length: int) -> NDArray[np.int64]:
        self._expect("kind of direct map", self._number("u1", "kind of direct map"), _ARRAY_MAP)
        at = self._vector("direct map", length, _ID_BYTES)
        end = self._stream.tell()
        self._stream.seek(at)
        entries = self._array(length)
        self._stream.seek(end)
        return entries

    def _maybe_direct_map(self) -> None:
        """None, or one of the articles; whoever reads the file makes it anew."""
        kind = self._number("u1", "kind of direct map")
        if kind not in {_NO_MAP, _ARRAY_MAP}:
            raise _StrangeError(f"direct maps of kind {kind} are not served", RefusalReason.INDEX)
        self._vector("direct map", self.articles if kind == _ARRAY_MAP else 0, _ID_BYTES)

    def _list_sizes(self, lists: int, code_size: int, articles: int) -> NDArray[np.int64]:
        """The beginning of the lists; int64[lists], how much is in each."""
        letters = self._letters()
        if letters != "ilar":
            raise _StrangeError(f"lists of kind {letters!r} are not served", RefusalReason.INDEX)
        self._expect("number of lists", self._number("<u8", "number of lists"), lists)
        self._expect("code size of the lists", self._number("<u8", "code size"), code_size)
        form, stated = self._letters(), self._number("<u8", "number of list sizes")
        if form == "full":
            self._expect("number of list sizes", stated, lists)
            sizes = self._array(lists)
        elif form == "sprs" and stated <= 2 * lists and stated % 2 == 0:
            which, of_each = self._array(stated).reshape(-1, 2).T
            if (which < 0).any() or (which >= lists).any() or (np.diff(which) <= 0).any():
                raise _StrangeError("the lists are not numbered in order")
            sizes = np.zeros(lists, np.int64)
            sizes[which] = of_each
        else:
            raise _StrangeError(f"list sizes of kind {form!r}, {stated} of them")
        held = sum(sizes.tolist())  # by Python, whose numbers do not wrap
        if (sizes < 0).any() or held != articles:
            raise _StrangeError(
                f"the lists do not hold the {articles} that the header says", RefusalReason.INDEX
            )
        return sizes

    def _ids_of_list(self, size: int, code_size: int) -> NDArray[np.int64]:
        self._skip("codes of a list", size * code_size)
        return self._array(size)

    def _scalar_quantizer(self) -> int:
        """Answer the bytes of one code."""
        kind = self._number("<i4", "type of codes")
        if kind not in _SCALAR_TYPES:
            raise _StrangeError(f"codes of type {kind} are not served", RefusalReason.INDEX)
        bits, trained = _SCALAR_TYPES[kind]
        self._skip("statistics of the codes", 8)
        self._expect("values of a code", self._number("<u8", "values"), self.dimension)
        code_size = (self.dimension * bits + 7) // 8
        self._expect("code size", self._number("<u8", "code size"), code_size)
        self._vector("ranges of the codes", trained * self.dimension, 4)
        return code_size

    def _product_quantizer(self, bits_of_part: int | None = None) -> int:
        """Answer the bytes of one code; `bits_of_part`: what its parts must have."""
        self._expect("values of a code", self._number("<u8", "values"), self.dimension)
        parts = self._number("<u8", "parts of a code")
        bits = self._number("<u8", "bits of a part")
        if not 1 <= parts <= self.dimension or self.dimension % parts:
            raise _StrangeError(f"{self.dimension} values in {parts} parts")
        if bits_of_part is not None:
            self._expect("bits of a part", bits, bits_of_part)
        if not 1 <= bits <= _MOST_PQ_BITS:
            raise _StrangeError(f"parts of a code have {bits} bits")
        self._vector("centres of the codes", self.dimension << bits, 4)
        return (parts * bits + 7) // 8

    def _header(self, kind: str, count: int) -> None:
        """A nested index has the outer one's dimension, and as much in it as follows from that."""
        dimension, found = self._counts(kind)
        self._expect(f"dimension of {kind}", dimension, self.dimension)
        self._expect(f"vectors in {kind}", found, count)

    def _counts(self, kind: str) -> tuple[int, int]:
        dimension = self._number("<i4", "dimension")
        count = self._number("<i8", "number of vectors")
        for name, value in (("dimension", dimension), ("number of vectors", count)):
            if not 1 <= value <= self._size:
                raise _StrangeError(f"the {name} of {kind} is {value}")
        self._skip("two numbers that say nothing", 16)
        trained = self._flag("is_trained")
        if not trained and kind != "IxMp":  # which is not told when what is in it is trained
            raise _StrangeError("the index is not trained", RefusalReason.INDEX)
        if self._number("<i4", "metric") != _INNER_PRODUCT:
            raise _StrangeError("the metric is not the inner product", RefusalReason.INDEX)
        return dimension, count

    def _flag(self, name: str) -> bool:
        value = self._number("u1", name)
        if value > 1:  # no value of a bool for C++
            raise _StrangeError(f"{name} is {value}")
        return value == 1

    def _kind(self, *served: str) -> str:
        at, letters = self._stream.tell(), self._letters()
        if letters not in served:
            raise _StrangeError(
                f"{letters!r} at byte {at} is none of the kinds served there ({', '.join(served)})",
                RefusalReason.INDEX,
            )
        self.kinds.append(letters)
        return letters

    def _letters(self) -> str:
        return self._bytes("a kind", 4).decode("latin-1")

    def _number(self, dtype: str, name: str) -> int:
        return int(np.frombuffer(self._bytes(name, np.dtype(dtype).itemsize), dtype)[0])

    def _array(self, length: int) -> NDArray[np.int64]:
        return np.frombuffer(self._bytes("numbers", length * 8), "<i8")

    def _vector(self, name: str, length: int, item_bytes: int) -> int:
        """Skip a vector, which begins with its length; answer where its values begin."""
        self._expect(f"length of the {name}", self._number("<u8", name), length)
        at = self._stream.tell()
        self._skip(name, length * item_bytes)
        return at

    def _skip(self, name: str, count: int) -> None:
        self._must_hold(name, count)
        self._stream.seek(count, os.SEEK_CUR)

    def _bytes(self, name: str, count: int) -> bytes:
        self._must_hold(name, count)
        found = self._stream.read(count)
        if len(found) != count:
            raise _StrangeError(f"the file was cut in the {name} while it was read")
        return found

    def _must_hold(self, name: str, count: int) -> None:
        if (left := self._size - self._stream.tell()) < count:
            raise _StrangeError(f"the file ends in the {name}: {left} bytes of {count}")

    def _expect(self, name: str, found: int, expected: int) -> None:
        if found != expected:
            raise _StrangeError(f"the {name} is {found}, not {expected}")
