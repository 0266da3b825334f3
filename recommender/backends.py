"""What the recommender asks of its two backends, whatever carries the questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from recommender.domain import HISTORY_LENGTH, AttributeFilter, Float32s, Int64s, Ranking
from recommender.popular import PopularArticles
from recommender.split import Split

__all__ = [
    "NONE_TAKEN_DOWN",
    "Backend",
    "GoldenHistory",
    "Retriever",
    "Status",
    "Usage",
    "UserTower",
    "UserVectors",
    "padded_histories",
]


_PADDING: Final = (-1,) * HISTORY_LENGTH


NONE_TAKEN_DOWN: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Status:
    """What a server says of itself: the releases that it can be asked for, and what it follows."""

    ready: frozenset[int]
    split: Split | None = None
    taken_down: Int64s = field(default_factory=lambda: NONE_TAKEN_DOWN)
    """Articles that must be in no answer, ascending; the same array until they change."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The releases that this recommender answers from, and those that it will not answer from."""

    in_use: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class UserVectors:
    """float32[B, D], and int32[B]: how many articles of each history the model knows."""

    vectors: Float32s
    known: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class GoldenHistory:
    """A history, and what the release's model and index must answer to it."""

    history: tuple[int, ...]
    region_id: int | None
    expected: Int64s
    min_overlap: float


class Backend(Protocol):
    """One address of a server that holds releases. Calls raise CallError."""

    address: str

    async def status(self, timeout_seconds: float) -> Status:
        """Answer what this server can be asked for now."""
        ...

    async def close(self, grace_seconds: float) -> None:
        """Give the connection up; calls under way may go on for `grace_seconds`."""
        ...


class UserTower(Backend, Protocol):
    """Turns histories into user vectors."""

    async def user_vectors(
        self, release: int, histories: Int64s, regions: Int64s, timeout_seconds: float
    ) -> UserVectors:
        """Turn histories int64[B, 50] and regions int64[B] (-1: unknown) into user vectors."""
        ...


class Retriever(Backend, Protocol):
    """Finds articles near user vectors."""

    async def search(
        self,
        release: int,
        vectors: Float32s,
        k: int,
        *,
        excluded: list[Int64s] | None = None,
        filters: tuple[AttributeFilter, ...] = (),
        timeout_seconds: float,
    ) -> list[Ranking]:
        """Answer the k nearest articles to each row of vectors float32[B, D]."""
        ...

    async def popular(self, release: int, timeout_seconds: float) -> PopularArticles:
        """Answer the popular articles of the release, overall and of all regions."""
        ...

    async def golden_histories(
        self, release: int, timeout_seconds: float
    ) -> tuple[GoldenHistory, ...]:
        """Answer what model and index of the release must answer together."""
        ...


def padded_histories(histories: Sequence[Sequence[int]]) -> Int64s:
    """Lay histories out as the model takes them: int64[B, 50], newest first, -1 where none."""
    rows = [[*history[:HISTORY_LENGTH], *_PADDING[len(history) :]] for history in histories]
    return np.array(rows, np.int64)
