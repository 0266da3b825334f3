"""Requests that no careful caller would send: noise, spoilt messages, and extremes of each field.

Made from the descriptors, so a new field is fuzzed from the day it is there.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["RequestMaker", "Vocabulary"]

Vocabulary = Mapping[str, Sequence[Any]]
"""By field name: values that get past the first check."""

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_UINT64: (64, False),
    FieldDescriptor.TYPE_FIXED32: (32, False),
    FieldDescriptor.TYPE_FIXED64: (64, False),
    FieldDescriptor.TYPE_ENUM: (32, True),
}
_REALS = (0.0, -1.0, 0.5, 1e-45, 3e38, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "a", "\0", "é" * 129, "x" * 257, "../../etc/passwd", "a b\nc", "\U0001d4b3" * 64)
_COUNTS = (0, 1, 1, 1, 2, 3, 17)
_CROWDS = (257, 1_001, 5_001, 6_001)
_CROWD_EVERY = 200
_HUGE_EVERY = 5_000
_HUGE_BYTES = 5 << 20  # more than a server takes
_MOST_DEPTH = 4


class RequestMaker:
    """Makes requests of one type, the same ones for the same seed.

    `valid` are good requests to spoil; `vocabulary` gives fields values that make sense.
    """

    def __init__(
        self,
        message: Callable[[], Message],
        valid: Sequence[Message],
        vocabulary: Vocabulary,
        seed: int,
    ) -> None:
        self._message = message
        self._valid = [one.SerializeToString() for one in valid]
        self._vocabulary = vocabulary
        self._random = Random(seed)

    def make(self) -> bytes:
        """Answer the next request's bytes."""
        if self._random.randrange(_HUGE_EVERY) == 0:
            return bytes(_HUGE_BYTES)
        kinds = (self._noise, self._spoilt, self._spoilt, self._extreme, self._extreme, self._good)
        return self._random.choice(kinds)()

    def _good(self) -> bytes:
        return self._random.choice(self._valid)

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.randrange(200))

    def _spoilt(self) -> bytes:
        """A good request cut off, with bits flipped, or with parts doubled or exchanged."""
        data = bytearray(self._good())
        for _ in range(self._random.randrange(1, 4)):
            place = self._random.randrange(len(data) + 1)
            match self._random.randrange(4):
                case 0:
                    del data[place:]
                case 1 if place < len(data):
                    data[place] ^= 1 << self._random.randrange(8)
                case 2:
                    data[place:place] = self._random.randbytes(self._random.randrange(1, 9))
                case _:
                    other = self._good()
                    data[place:] = other[self._random.randrange(len(other) + 1) :]
        return bytes(data)

    def _extreme(self) -> bytes:
        message = self._message()
        self._fill(message, 0)
        return message.SerializeToString()

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.3:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(getattr(message, field.name), field, depth)
            elif field.is_repeated:
                self._fill_list(getattr(message, field.name), field, depth)
            elif field.message_type is not None:
                if depth < _MOST_DEPTH:
                    inner = getattr(message, field.name)
                    inner.SetInParent()
                    self._fill(inner, depth + 1)
            else:
                setattr(message, field.name, self._value(field))

    def _fill_map(self, entries: Any, field: FieldDescriptor, depth: int) -> None:
        key, value = field.message_type.fields
        for _ in range(self._count()):
            name = self._value(key)
            if value.message_type is not None:
                self._fill(entries[name], depth + 1)
            else:
                entries[name] = self._value(value)

    def _fill_list(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        count = self._count()
        if field.message_type is None:
            values.extend(self._value(field) for _ in range(count))
        elif depth < _MOST_DEPTH:
            for _ in range(min(count, 20)):
                self._fill(values.add(), depth + 1)

    def _count(self) -> int:
        crowded = self._random.randrange(_CROWD_EVERY) == 0
        return self._random.choice(_CROWDS if crowded else _COUNTS)

    def _value(self, field: FieldDescriptor) -> Any:
        known = self._vocabulary.get(field.name)
        if known and self._random.random() < 0.6:
            return self._random.choice(known)
        if field.type in _INTEGERS:
            return self._integer(*_INTEGERS[field.type])
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.type in {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}:
            return self._random.choice(_REALS)
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._random.choice(_TEXTS)
        return self._bytes()

    def _integer(self, bits: int, signed: bool) -> int:
        highest = 2 ** (bits - signed) - 1
        lowest = -highest - 1 if signed else 0
        near = self._random.choice((0, 1, 2, 50, 1_000, 2**31 - 1, highest - 1, highest))
        value = -near if signed and self._random.random() < 0.3 else near
        return max(lowest, min(highest, value)) if self._random.random() < 0.95 else lowest

    def _bytes(self) -> bytes:
        size = self._random.choice((0, 1, 4, 8, 127, 128, 256, 1_024, 128 * 257))
        match self._random.randrange(3):
            case 0:
                return bytes(size)
            case 1:
                return self._random.randbytes(size)
            case _:
                return np.full(size // 4, np.nan, "<f4").tobytes()
