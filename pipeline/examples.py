"""Training examples as places in the sequence of views; their windows are gathered when needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TooLittleDataError
from pipeline.preprocess import PreparedArrays
from pipeline.windows import history_windows

__all__ = ["Batch", "Examples", "split_examples"]

_VALIDATION_USERS: Final = 5_000
_VALIDATION_SHARE: Final = 0.2


@dataclass(frozen=True)
class Batch:
    """Inputs and labels of one step; `labels` are rows of the article vectors."""

    history: NDArray[np.int32]
    region: NDArray[np.int32]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Examples:
    """Views that serve as labels: their places in `PreparedArrays.articles`."""

    arrays: PreparedArrays
    places: NDArray[np.int64]
    begins: NDArray[np.int64]
    """Where the history of each example's user begins."""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Any) -> Self:
        """Keep these examples, by index or by mask."""
        return type(self)(self.arrays, self.places[rows], self.begins[rows])

    def batch(self) -> Batch:
        """Gather all of these examples at once."""
        return Batch(
            history=history_windows(
                self.arrays.articles, self.arrays.repeats(), self.begins, self.places, 0
            ),
            region=self.arrays.regions[self.places],
            labels=self.arrays.articles[self.places] - 1,
        )

    def chunks(self, size: int) -> Iterator[Batch]:
        """Gather them in order, `size` at a time."""
        for begin in range(0, len(self), size):
            yield self.take(slice(begin, begin + size)).batch()

    def shuffled_batches(self, size: int, random: np.random.Generator) -> Iterator[Batch]:
        """Gather full batches for ever, each epoch in a new order."""
        while True:
            order = random.permutation(len(self))
            for begin in range(0, len(order) - size + 1, size):
                yield self.take(order[begin : begin + size]).batch()


def split_examples(
    arrays: PreparedArrays, random: np.random.Generator
) -> tuple[Examples, Examples]:
    """Hold out the last training view of a sample of users; the rest is for training.

    Raises TooLittleDataError when there are fewer than two examples.
    """
    begins = arrays.offsets[:-1][arrays.owners()]
    places = np.arange(len(arrays.articles))
    usable = (places > begins) & (arrays.articles > 0)
    count = int(usable.sum())
    if count < 2:
        raise TooLittleDataError(f"{count} training examples; at least 2 are needed")
    last = places[usable & np.append(begins[1:] != begins[:-1], True)]
    if not len(last):
        last = places[usable]
    most = max(1, min(_VALIDATION_USERS, int(count * _VALIDATION_SHARE)))
    held = np.sort(random.permutation(last)[:most])
    usable[held] = False
    everything = Examples(arrays, places, begins)
    return everything.take(usable), everything.take(held)
