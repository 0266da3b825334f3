"""Which index `auto` takes, and what is made of other factory strings."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faiss_server.build_errors import BuildError
from faiss_server.spec import MOST_FLAT_LISTS, bytes_per_article, list_count, resolve_spec

GIB = 2**30


@pytest.mark.parametrize(
    ("spec", "count", "dimension", "gib", "expected"),
    [
        ("auto", 1_000_000, 64, None, "IVF4000,Flat"),
        ("auto", 1_000_000, 64, 0.2, "IVF4000,SQfp16"),
        ("auto", 1_000_000, 64, 0.1, "IVF4000,SQ8"),
        ("auto", 1_999_999, 64, None, "IVF5657,Flat"),
        ("auto", 2_000_000, 64, None, "IVF5657,PQ64x4fsr,Refine(SQfp16)"),
        ("auto", 4_000_000, 64, 0.75, "IVF8000,SQfp16"),
        ("auto", 10_000_000, 64, None, "IVF12649(IVF112,Flat),PQ64x4fsr,Refine(SQfp16)"),
        ("auto", 10_000_000, 64, 1, "IVF12649(IVF112,Flat),SQ8"),
        ("auto", 10, 8, None, "IVF1,Flat"),
        ("IVF4096,SQ8", 5, 64, 0.001, "IVF4096,SQ8"),
        ("IVF16384,SQ8", 5, 64, None, "IVF16384(IVF128,Flat),SQ8"),
        ("OPQ16_64,IVF65536,PQ16,RFlat", 5, 64, None, "OPQ16_64,IVF65536(IVF256,Flat),PQ16,RFlat"),
        ("IVF16384_HNSW16,SQ8", 5, 64, None, "IVF16384_HNSW16,SQ8"),
        ("IVF16384(IVF128,Flat),SQ8", 5, 64, None, "IVF16384(IVF128,Flat),SQ8"),
    ],
)
def test_the_spec_that_is_built(spec, count, dimension, gib, expected):
    memory = None if gib is None else int(gib * GIB)
    assert resolve_spec(spec, count, dimension, memory) == expected


@given(st.integers(1, 10**8), st.integers(1, 1024), st.integers(1, 2**40))
def test_what_auto_takes_keeps_within_the_limit(count, dimension, memory):
    if count * bytes_per_article(dimension, 1) > memory:
        with pytest.raises(BuildError, match="raise it"):
            resolve_spec("auto", count, dimension, memory)
        return
    spec = resolve_spec("auto", count, dimension, memory)
    codes = re.sub(r"^IVF\d+(\(.*?\))?,", "", spec)
    blocks = f"PQ{dimension}x4fsr,Refine(SQfp16)"
    of_value = {"Flat": 4, blocks: 3, "SQfp16": 2, "SQ8": 1}[codes]
    assert count * bytes_per_article(dimension, of_value) <= memory
    assert ("(IVF" in spec) == (list_count(count) > MOST_FLAT_LISTS)
