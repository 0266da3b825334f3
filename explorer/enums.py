"""Names of enum values as people say them."""

from google.protobuf.descriptor import EnumDescriptor

__all__ = ["name_of"]


def name_of(enum: EnumDescriptor, value: int, prefix: str = "") -> str:
    """Answer a value's name without its prefix.

    A value that this build does not know, from a server that is newer, goes by its number.
    """
    known = enum.values_by_number.get(value)
    return str(value) if known is None else known.name.removeprefix(prefix)
