"""Whole histories for learning: what a user viewed, one view after another; their wire format.

An article that is viewed again stays at each of its views, whereas a served history holds it at the
latest alone. Each view is one to foretell; and in a pass over a row a place has one state for all
later ones, which has seen what the histories of some of these no longer hold.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline._quiet import load_tensorflow

__all__ = ["cut_sequences", "parse_sequences"]

ARTICLES: Final = "articles"
REGIONS: Final = "regions"


def cut_sequences(
    offsets: NDArray[np.int64],
    articles: NDArray[np.int64],
    regions: NDArray[np.int64],
    held_back: NDArray[np.bool_],
) -> pa.RecordBatch:
    """Cut a row of known views, newest first, out of the views of each user that has two of them.

    User u's views are `offsets[u]:offsets[u + 1]`, oldest first, as indices. `held_back` says of
    each user, bool[users], whether the last known view is kept for validation. The columns
    are lists: what the encoder of tf.train.Example takes.
    """
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places = np.flatnonzero(articles > 0)
    users = owners[places]
    is_last = np.append(users[1:] != users[:-1], True)[: len(users)]
    places = places[~(is_last & held_back[users])]
    counts = np.bincount(owners[places], minlength=len(offsets) - 1)
    places = places[counts[owners[places]] >= 2]
    counts = counts[counts >= 2]
    # Turned round as a whole: then the users are too, which are in no order anyway.
    bounds = pa.array(np.concatenate([[0], np.cumsum(counts[::-1])]).astype(np.int64))
    columns = [
        pa.LargeListArray.from_arrays(bounds, pa.array(values[places[::-1]].astype(np.int64)))
        for values in (articles, regions)
    ]
    return pa.RecordBatch.from_arrays(columns, [ARTICLES, REGIONS])


def parse_sequences(records: Any, first: Any) -> dict[str, Any]:
    """Parse serialised sequences into steps, int32[n] each: `article` that was viewed, `label`, the
    row of the article that was viewed next, `region`, that next view's, and `owner`, whose step it
    is, numbered from `first`. A user's newest step comes first.
    """
    tf = load_tensorflow()
    spec = {
        name: tf.io.RaggedFeature(tf.int64, value_key=name, row_splits_dtype=tf.int64)
        for name in (ARTICLES, REGIONS)
    }
    parsed = tf.io.parse_example(records, spec)
    older, newer = parsed[ARTICLES][:, 1:], parsed[ARTICLES][:, :-1]
    steps = {
        "article": older.flat_values,
        "label": newer.flat_values - 1,
        "region": parsed[REGIONS][:, :-1].flat_values,
        "owner": older.value_rowids() + first,
    }
    return {name: tf.cast(values, tf.int32) for name, values in steps.items()}
