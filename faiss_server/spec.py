"""Which index to build: faiss factory strings, and the choice of one by size and memory."""

import math
import re
from dataclasses import dataclass
from typing import Final

from faiss_server.build_errors import BuildError

__all__ = ["AUTO", "MOST_FLAT_LISTS", "bytes_per_article", "list_count", "resolve_spec"]

AUTO: Final = "auto"

MOST_FLAT_LISTS: Final = 10_000
"""Of more lists than these the nearest ones are found by an index of their centres."""

_TRAINING_POINTS_PER_LIST: Final = 39  # faiss warns below it
_BYTES_BESIDE_CODES: Final = 24
"""By article, in a server: its id in a list, its id by position, and where it is in the lists."""
_PLAIN_LISTS: Final = re.compile(r"IVF(\d+)(?=,|$)")


@dataclass(frozen=True, slots=True)
class _Codes:
    factory: str
    bytes_per_value: int


# From the most to the least exact. Coarser ones need finer vectors beside them to reach a recall
# of 0.99, which then take more than the codes save.
_CODES: Final = (_Codes("Flat", 4), _Codes("SQfp16", 2), _Codes("SQ8", 1))

# A search of many articles takes as long as the codes that it reads and scores. Four bits for each
# value, of what is left after the centre of a list, are an eighth of floats and scored many at
# once; half floats then score the best few. faiss takes up to twice the memory for the four bits: a
# list's grow to the next power of two.
_MANY: Final = 2_000_000
_CODES_OF_MANY: Final = (_Codes("PQ{dimension}x4fsr,Refine(SQfp16)", 3), *_CODES[1:])


def list_count(vector_count: int) -> int:
    """About four times the square root, with at least 39 training points for each list."""
    wanted = round(4 * math.sqrt(vector_count))
    return max(1, min(wanted, vector_count // _TRAINING_POINTS_PER_LIST))


def bytes_per_article(dimension: int, bytes_per_value: int) -> int:
    """Answer what a server keeps in memory of one article, in bytes."""
    return dimension * bytes_per_value + _BYTES_BESIDE_CODES


def resolve_spec(
    spec: str, vector_count: int, dimension: int, memory_bytes: int | None = None
) -> str:
    """Answer the faiss factory string to build.

    `auto` takes the most exact codes with which a server keeps the release within `memory_bytes`
    (None: as much as it takes), of two million articles or more the fastest ones instead. Any other
    string stays as it is, but that the lists of one with more than MOST_FLAT_LISTS get a second
    level. Raises BuildError when nothing fits.
    """
    if spec != AUTO:
        return _PLAIN_LISTS.sub(_in_two_levels, spec)
    for codes in _CODES_OF_MANY if vector_count >= _MANY else _CODES:
        needed = vector_count * bytes_per_article(dimension, codes.bytes_per_value)
        if memory_bytes is None or needed <= memory_bytes:
            factory = codes.factory.format(dimension=dimension)
            return _PLAIN_LISTS.sub(_in_two_levels, f"IVF{list_count(vector_count)},{factory}")
    raise BuildError(
        f"{vector_count} vectors of {dimension} values need {needed / 2**30:.2f} GiB with one byte "
        f"for each value, the limit is {(memory_bytes or 0) / 2**30:.2f} GiB: raise it, or name a "
        "coarser index as the spec"
    )


def _in_two_levels(match: re.Match[str]) -> str:
    lists = int(match[1])
    return f"{match[0]}(IVF{math.isqrt(lists)},Flat)" if lists > MOST_FLAT_LISTS else match[0]
