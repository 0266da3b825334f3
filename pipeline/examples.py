"""Training examples: what a user had viewed when a view came, and that view; their wire format."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline._quiet import load_tensorflow
from pipeline.windows import find_repeats, history_windows
from releases.layout import HISTORY_LENGTH

__all__ = ["HISTORY", "LABEL", "REGION", "Examples", "cut_examples", "parse_examples"]

HISTORY: Final = "history"
REGION: Final = "region"
LABEL: Final = "label"


@dataclass(frozen=True)
class Examples:
    """Rows of indices: history int64[n, 50] newest first, 0 padding or unknown; region int64[n], 0
    unknown; label int64[n], a row of the article vectors.
    """

    history: NDArray[np.int64]
    region: NDArray[np.int64]
    label: NDArray[np.int64]
    is_last: NDArray[np.bool_]
    """bool[n]: whether it is the user's last example."""
    users: NDArray[np.int64]
    """int64[n]: whose example it is."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[np.bool_]) -> pa.RecordBatch:
        """Pick rows, as columns of lists: what the encoder of tf.train.Example takes."""
        history = self.history[rows]
        return pa.RecordBatch.from_arrays(
            [_lists(history.ravel(), HISTORY_LENGTH), _lists(self.region[rows]),
             _lists(self.label[rows])],
            [HISTORY, REGION, LABEL],
        )  # fmt: skip


def cut_examples(
    offsets: NDArray[np.int64],
    article_ids: NDArray[np.int64],
    articles: NDArray[np.int64],
    regions: NDArray[np.int64],
) -> Examples:
    """Cut an example out of every view of a known article that has an earlier view before it.

    User u's views are `offsets[u]:offsets[u + 1]`, oldest first, as raw ids and as indices.
    """
    repeats = find_repeats(article_ids, offsets)
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    begins = offsets[:-1][owners]
    places = np.flatnonzero((np.arange(len(articles)) > begins) & (articles > 0))
    users = owners[places]
    return Examples(
        history=history_windows(articles, repeats, begins[places], places, 0),
        region=regions[places],
        label=articles[places] - 1,
        is_last=np.append(users[1:] != users[:-1], True)[: len(users)],
        users=users,
    )


def parse_examples(records: Any) -> dict[str, Any]:
    """Parse a batch of serialised examples into int32 tensors [n, 50], [n] and [n]."""
    tf = load_tensorflow()  # the Beam workers cut examples and parse none
    spec = {
        HISTORY: tf.io.FixedLenFeature([HISTORY_LENGTH], tf.int64),
        REGION: tf.io.FixedLenFeature([], tf.int64),
        LABEL: tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_example(records, spec)
    return {name: tf.cast(values, tf.int32) for name, values in parsed.items()}


def _lists(values: NDArray[np.int64], length: int = 1) -> pa.Array:
    offsets = np.arange(0, len(values) + 1, length)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
