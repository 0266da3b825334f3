"""The words that the recommender's logic is written in: no gRPC, no protobuf."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HISTORY_LENGTH",
    "AttributeFilter",
    "CandidateQuery",
    "Candidates",
    "FallbackReason",
    "Float32s",
    "Int64s",
    "Ranking",
    "Source",
    "View",
]

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]

HISTORY_LENGTH: Final = 50
"""Views that a user vector is made from; fixed in the model's signature."""


class Source(Enum):
    """Where the articles of an answer come from."""

    PERSONALIZED = "PERSONALIZED"
    POPULAR = "POPULAR"


class FallbackReason(Enum):
    """Why an answer is not PERSONALIZED."""

    NO_HISTORY = "NO_HISTORY"
    UNKNOWN_HISTORY = "UNKNOWN_HISTORY"
    HISTORY_UNAVAILABLE = "HISTORY_UNAVAILABLE"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    SEARCH_UNAVAILABLE = "SEARCH_UNAVAILABLE"
    NO_COMMON_RELEASE = "NO_COMMON_RELEASE"


@dataclass(frozen=True, slots=True)
class View:
    """An article seen, and when (ms since 1970-01-01 UTC)."""

    article_id: int
    viewed_at_ms: int


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """An article passes when its value is (`negated`: is not) one of `values`."""

    attribute: str
    values: tuple[int, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class CandidateQuery:
    """A checked request for candidates."""

    user_id: str
    limit: int
    excluded: Int64s
    exclude_viewed: bool = False
    filters: tuple[AttributeFilter, ...] = ()
    region_id: int | None = None
    recent: tuple[int, ...] = ()
    """Not empty: replaces the stored history; newest first, at most HISTORY_LENGTH."""
    release: int | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Articles best first: ids int64[n] and scores float32[n]."""

    ids: Int64s
    scores: Float32s


@dataclass(frozen=True, slots=True)
class Candidates:
    """An answer, from exactly one release."""

    ranking: Ranking
    release: int
    source: Source
    fallback_reason: FallbackReason | None
    shorter_than_requested: bool
    stage_seconds: dict[str, float] = field(default_factory=dict)
