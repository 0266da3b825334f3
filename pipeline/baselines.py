"""What the model must beat: popularity, and first-order transitions."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline._quiet import load_tensorflow
from pipeline.examples import parse_examples
from pipeline.prepared import PreparedData, UserSample

__all__ = [
    "PopularityBaseline",
    "Successions",
    "TransitionsBaseline",
    "count_successions",
    "newest_known",
]

_EXAMPLES_AT_ONCE: Final = 8_192


class PopularityBaseline:
    """Every user gets the most viewed articles."""

    def __init__(self, article_views: NDArray[np.int64]) -> None:
        self._views = article_views.astype(np.float64)

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        """Score all articles of the vocabulary, [users, articles]."""
        return np.broadcast_to(self._views, (len(users), len(self._views)))


class Successions:
    """How often each article came right after another, as compressed rows by the former.

    Articles are indices into the vocabulary plus one.
    """

    def __init__(
        self, former: NDArray[np.int64], latter: NDArray[np.int64], article_count: int
    ) -> None:
        size = article_count + 1
        pairs, self._counts = np.unique(former.astype(np.int64) * size + latter, return_counts=True)
        self._begins = np.searchsorted(pairs // size, np.arange(size + 1))
        self._latter = pairs % size

    def after(self, article: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Name the articles that came after this one, and how often."""
        row = slice(self._begins[article], self._begins[article + 1])
        return self._latter[row], self._counts[row]


def count_successions(prepared: PreparedData, newest: NDArray[np.int64]) -> Successions:
    """Read off all examples what came after each of the articles `newest`, int64[users].

    The newest known view of an example and the view that came make a pair. Others than those of
    users who are asked are passed over: all pairs of a large log would not fit into memory.
    """
    asked = np.zeros(prepared.article_count + 1, bool)
    asked[newest] = True
    asked[0] = False  # no known view
    tf = load_tensorflow()
    files = [str(file) for file in (*prepared.examples, *prepared.validation_examples)]
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    former, latter = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in records.batch(_EXAMPLES_AT_ONCE).map(parse_examples).as_numpy_iterator():
        before = _first_known(batch["history"])
        kept = asked[before]
        former.append(before[kept])
        latter.append(batch["label"][kept] + 1)
    return Successions(np.concatenate(former), np.concatenate(latter), prepared.article_count)


class TransitionsBaseline:
    """Articles that most often came right after the user's newest view, then popular ones."""

    def __init__(
        self,
        successions: Successions,
        article_views: NDArray[np.int64],
        newest: NDArray[np.int64],
    ) -> None:
        """`newest`: index of each user's newest known view, 0 where there is none."""
        self._popularity = article_views / (article_views.max() + 1.0)  # below one succession
        self._successions, self._newest = successions, newest

    def scores(self, users: NDArray[np.int64]) -> NDArray[Any]:
        """Score all articles of the vocabulary, [users, articles]."""
        scores = np.tile(self._popularity, (len(users), 1))
        for row, newest in enumerate(self._newest[users]):
            following, counts = self._successions.after(newest)
            scores[row, following - 1] += counts
        return scores


def newest_known(sample: UserSample, indices: NDArray[np.int32]) -> NDArray[np.int64]:
    """Name each user's newest view of a known article before the target; `indices` by view."""
    newest = np.zeros(len(sample.targets), np.int64)
    owners = np.repeat(np.arange(len(sample.targets)), np.diff(sample.offsets))
    known = indices > 0
    newest[owners[known]] = indices[known]  # the last assignment stays
    return newest


def _first_known(histories: NDArray[np.int64]) -> NDArray[np.int64]:
    column = np.argmax(histories > 0, axis=1)
    newest: NDArray[np.int64] = histories[np.arange(len(histories)), column]
    return newest
