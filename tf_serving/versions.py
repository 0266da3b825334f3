"""Which versions a directory holds, which are to be served, and the next step towards that."""

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from tf_serving.errors import Code

__all__ = [
    "All",
    "Fingerprint",
    "Latest",
    "Load",
    "Specific",
    "State",
    "Unload",
    "VersionPolicy",
    "VersionStatus",
    "fingerprint",
    "next_step",
    "versions_in",
]

_INT64_MAX = 2**63 - 1

Fingerprint = tuple[tuple[str, int, int], ...]


class State(IntEnum):
    """TensorFlow Serving's states of a version, with its numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """State of one version; `code` and `message` say why a load failed."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class Latest:
    """Serve the `count` highest versions."""

    count: int = 1

    def wanted(self, found: AbstractSet[int]) -> frozenset[int]:
        """Choose among the versions that exist."""
        return frozenset(sorted(found)[-self.count :])


@dataclass(frozen=True)
class All:
    """Serve every version there is."""

    def wanted(self, found: AbstractSet[int]) -> frozenset[int]:
        """Choose among the versions that exist."""
        return frozenset(found)


@dataclass(frozen=True)
class Specific:
    """Serve the named versions."""

    versions: frozenset[int] = field(default_factory=frozenset)

    def wanted(self, found: AbstractSet[int]) -> frozenset[int]:
        """Choose among the versions that exist."""
        return self.versions & found


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True)
class Load:
    """Bring this version into memory."""

    version: int


@dataclass(frozen=True)
class Unload:
    """Take this version out of service."""

    version: int


def versions_in(base_path: Path) -> Mapping[int, Path]:
    """List the directories whose names are numbers, by version.

    Raises OSError where the base path cannot be read.
    """
    with os.scandir(base_path) as entries:
        names = sorted(entry.name for entry in entries if _is_version(entry.name, entry.is_dir()))
    return {int(name): base_path / name for name in names}


def _is_version(name: str, is_directory: bool) -> bool:
    return is_directory and name.isascii() and name.isdigit() and int(name) <= _INT64_MAX


def fingerprint(directory: Path) -> Fingerprint:
    """Tell one state of a directory from another: paths, sizes and times (ns) of its files.

    Files that come or go meanwhile may be left out.
    """
    files = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - os.walk hands out strings
            try:
                status = os.stat(path)  # noqa: PTH116 - the same
            except FileNotFoundError:
                continue
            files.append((path, status.st_size, status.st_mtime_ns))
    return tuple(sorted(files))


def next_step(
    *,
    found: AbstractSet[int],
    wanted: AbstractSet[int],
    available: AbstractSet[int],
    refused: AbstractSet[int],
) -> Load | Unload | None:
    """Decide one step from what is in memory towards what is wanted; None when there is none.

    TensorFlow Serving's AvailabilityPreservingPolicy: an unwanted version goes before another is
    loaded, unless it is the last one that answers; so memory holds no more than the policy asks
    for. Beyond it, a version whose directory is gone was withdrawn and does not stay for want of
    a better one. `refused` are versions whose loading failed.
    """
    unwanted = available - wanted
    to_load = wanted - available - refused
    if unwanted and (available & wanted or len(unwanted) > 1):
        return Unload(min(unwanted))
    if to_load:
        return Load(max(to_load))
    withdrawn = unwanted - found
    return Unload(min(withdrawn)) if withdrawn else None
