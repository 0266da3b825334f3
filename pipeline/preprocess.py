"""The second step: events become vocabularies, index sequences and held-out test targets."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.collect import CollectedEvents
from pipeline.errors import TooLittleDataError
from pipeline.options import PreprocessOptions
from pipeline.windows import Repeats, find_repeats, history_windows
from releases.layout import HISTORY_LENGTH

__all__ = ["PreparedArrays", "PreparedData", "preprocess"]

_USERS_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class PreparedArrays:
    """All that training and evaluation read.

    User u's training views are the places `offsets[u]:offsets[u + 1]`, oldest first. Their last
    view is not among them: it is the test target, in no training example and no count.
    Articles and regions are indices into their vocabulary plus one; 0 is padding or unknown.
    """

    vocabulary: NDArray[np.int64]
    """Article ids, most viewed first, smaller id first among equals."""
    article_views: NDArray[np.int64]
    """Training views of each article of the vocabulary."""
    region_vocabulary: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """int64[users + 1]."""
    articles: NDArray[np.int32]
    article_ids: NDArray[np.int64]
    """The same views as raw ids, rare ones included."""
    regions: NDArray[np.int32]
    """Where each view took place."""
    until_again: NDArray[np.int32]
    distinct: NDArray[np.int32]
    """With `until_again`: the `Repeats` among the views."""
    targets: NDArray[np.int64]
    """int64[users]: raw id of the user's last view; -1 for a user with a single view."""
    target_regions: NDArray[np.int64]
    """int64[users]: raw region id of that view, -1 unknown."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def save(self, path: Path) -> None:
        """Write all arrays to one .npz file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    def owners(self) -> NDArray[np.int64]:
        """Name the user of each training view."""
        return np.repeat(np.arange(len(self.targets)), np.diff(self.offsets))

    def repeats(self) -> Repeats:
        """Tell where users came back to an article."""
        return Repeats(self.until_again, self.distinct)

    def test_histories(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gather the raw histories that come before the test targets, int64[users, 50]."""
        begins, ends = self.offsets[users], self.offsets[users + 1]
        return history_windows(self.article_ids, self.repeats(), begins, ends, -1)

    def served_histories(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gather the raw histories as the store would hold them now: the last view included."""
        before = self.test_histories(users)
        last = self.targets[users][:, None]
        # The last view may be of an article viewed before: that one goes behind all others.
        others = np.argsort(before == last, axis=1, kind="stable")[:, : HISTORY_LENGTH - 1]
        with_last = np.concatenate([last, np.take_along_axis(before, others, axis=1)], axis=1)
        return np.where(last >= 0, with_last, before)

    def sample_known_users(self, count: int, seed: int) -> NDArray[np.int64]:
        """Draw at most `count` users whose history now holds an article of the vocabulary.

        Raises TooLittleDataError when there are none.
        """
        drawn = np.random.default_rng(seed).permutation(len(self.targets))
        known: list[NDArray[np.int64]] = []
        for begin in range(0, len(drawn), _USERS_AT_ONCE):
            users = drawn[begin : begin + _USERS_AT_ONCE]
            is_known = np.isin(self.served_histories(users), self.vocabulary).any(axis=1)
            known.append(users[is_known])
            if sum(map(len, known)) >= count:
                break
        found = np.concatenate(known)[:count]
        if not len(found):
            raise TooLittleDataError(
                f"no user has an article that is viewed often enough among the last "
                f"{HISTORY_LENGTH} (give more events or lower --min-article-views)"
            )
        return found


@dataclass(frozen=True)
class PreparedData:
    """The file of arrays and its measures. Times are unix seconds of the training views."""

    path: Path
    article_count: int
    region_count: int
    user_count: int
    view_count: int
    test_user_count: int
    first_event: int
    last_event: int
    cut_off: int

    def load(self) -> PreparedArrays:
        """Read the arrays."""
        return PreparedArrays.load(self.path)


@dataclass(frozen=True)
class _Events:
    starts: NDArray[np.int64]
    article_ids: NDArray[np.int64]
    region_ids: NDArray[np.int64]
    viewed_at: NDArray[np.int64]


def preprocess(
    collected: CollectedEvents, options: PreprocessOptions, workdir: Path
) -> PreparedData:
    """Hold out the last view of each user, then index articles seen often enough.

    Raises TooLittleDataError when no training example remains.
    """
    events = _read(collected.events)
    ends = np.append(events.starts[1:], len(events.article_ids))
    tested = ends - events.starts >= 2
    training = np.ones(len(events.article_ids), bool)
    training[(ends - 1)[tested]] = False
    arrays = _arrays(events, ends, training, options.min_article_views)
    _refuse_too_little(arrays, options)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "prepared.npz"
    arrays.save(path)
    return PreparedData(
        path=path,
        article_count=len(arrays.vocabulary),
        region_count=len(arrays.region_vocabulary),
        user_count=len(arrays.targets),
        view_count=len(arrays.articles),
        test_user_count=int(tested.sum()),
        first_event=int(events.viewed_at[training].min()),
        last_event=int(events.viewed_at[training].max()),
        cut_off=int(events.viewed_at.max()),
    )


def _arrays(
    events: _Events, ends: NDArray[np.int64], training: NDArray[np.bool_], least: int
) -> PreparedArrays:
    """Index the views of `training`; what a user has besides is the last view, the target."""
    article_ids, region_ids = events.article_ids[training], events.region_ids[training]
    vocabulary, article_views = _vocabulary(article_ids, least)
    region_vocabulary, _ = _vocabulary(region_ids[region_ids >= 0], 1)
    offsets = np.concatenate([[0], np.cumsum(training)[ends - 1]]).astype(np.int64)
    repeats = find_repeats(article_ids, offsets)
    last, tested = ends - 1, ~training[ends - 1]
    return PreparedArrays(
        vocabulary=vocabulary,
        article_views=article_views,
        region_vocabulary=region_vocabulary,
        offsets=offsets,
        articles=_indices(article_ids, vocabulary),
        article_ids=article_ids,
        regions=_indices(region_ids, region_vocabulary),
        until_again=repeats.until_again,
        distinct=repeats.distinct,
        targets=np.where(tested, events.article_ids[last], -1),
        target_regions=np.where(tested, events.region_ids[last], -1),
    )


def _read(path: Path) -> _Events:
    table = pq.read_table(path).combine_chunks()
    users = table["user_id"]
    changed = pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)).to_numpy()
    return _Events(
        starts=np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64),
        article_ids=table["article_id"].to_numpy(),
        region_ids=table["region_id"].to_numpy(),
        viewed_at=table["viewed_at"].to_numpy(),
    )


def _vocabulary(ids: NDArray[np.int64], least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    distinct, counts = np.unique(ids, return_counts=True)
    distinct, counts = distinct[counts >= least], counts[counts >= least]
    order = np.lexsort((distinct, -counts))
    return distinct[order], counts[order].astype(np.int64)


def _indices(ids: NDArray[np.int64], vocabulary: NDArray[np.int64]) -> NDArray[np.int32]:
    if not len(vocabulary):
        return np.zeros(len(ids), np.int32)
    ascending = np.argsort(vocabulary)
    places = np.minimum(np.searchsorted(vocabulary, ids, sorter=ascending), len(vocabulary) - 1)
    found = ascending[places]
    return np.where(vocabulary[found] == ids, found + 1, 0).astype(np.int32)


def _refuse_too_little(arrays: PreparedArrays, options: PreprocessOptions) -> None:
    if len(arrays.vocabulary) < 2:
        raise TooLittleDataError(
            f"{len(arrays.vocabulary)} articles have at least {options.min_article_views} views "
            "besides each user's last one; at least 2 are needed "
            "(give more events or lower --min-article-views)"
        )
    if not (np.diff(arrays.offsets) >= 2).any():
        raise TooLittleDataError("no user has 3 views or more, so there is nothing to learn from")
