"""What preprocessing leaves: the transform graph, training examples, and a sample of users."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import TooLittleDataError
from pipeline.holdout import HoldOut, Split, views_of
from pipeline.records import StepRecord
from pipeline.transform import TransformGraph
from pipeline.windows import Repeats, find_repeats, history_windows
from releases.layout import HISTORY_LENGTH

__all__ = ["PreparedData", "UserSample"]

_USERS_AT_ONCE = 10_000


@dataclass(frozen=True)
class UserSample:
    """Users to ask: those with a held-out view, and others. All arrays are by user or by view.

    User u's views before the target are the places `offsets[u]:offsets[u + 1]`, oldest first.
    """

    user_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    """int64[users + 1]."""
    article_ids: NDArray[np.int64]
    """Raw ids of the views, those of unknown articles included."""
    repeats: Repeats
    targets: NDArray[np.int64]
    """int64[users]: raw id of the view that is held out; -1 for a user without."""
    target_regions: NDArray[np.int64]
    """int64[users]: raw region id of that view, -1 unknown."""

    @classmethod
    def read(cls, path: Path, hold_out: HoldOut) -> Self:
        """Read histories of whole users and take off each tested user's last view."""
        table = pq.read_table(path).sort_by("user_id").combine_chunks()
        views = views_of(table.to_batches()[0])
        tested, last = hold_out.is_tested(views), views.offsets[1:] - 1
        kept = np.ones(len(views.article_ids), bool)
        kept[last[tested]] = False
        offsets = np.concatenate([[0], np.cumsum(views.counts - tested)]).astype(np.int64)
        article_ids = views.article_ids[kept]
        return cls(
            user_ids=tuple(table["user_id"].to_pylist()),
            offsets=offsets,
            article_ids=article_ids,
            repeats=find_repeats(article_ids, offsets),
            targets=np.where(tested, views.article_ids[last], -1),
            target_regions=np.where(tested, views.region_ids[last], -1),
        )

    def test_histories(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gather the raw histories that come before the test targets, int64[users, 50]."""
        begins, ends = self.offsets[users], self.offsets[users + 1]
        return history_windows(self.article_ids, self.repeats, begins, ends, -1)

    def served_histories(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gather the raw histories as the store would hold them now: the last view included."""
        before = self.test_histories(users)
        last = self.targets[users][:, None]
        # The last view may be of an article viewed before: that one goes behind all others.
        others = np.argsort(before == last, axis=1, kind="stable")[:, : HISTORY_LENGTH - 1]
        with_last = np.concatenate([last, np.take_along_axis(before, others, axis=1)], axis=1)
        return np.where(last >= 0, with_last, before)

    def viewed(self, user: int) -> NDArray[np.int64]:
        """Raw ids of all views before the target, oldest first."""
        return self.article_ids[self.offsets[user] : self.offsets[user + 1]]

    def known_users(
        self, vocabulary: NDArray[np.int64], count: int, seed: int
    ) -> NDArray[np.int64]:
        """Draw at most `count` users whose history now holds an article of the vocabulary.

        Raises TooLittleDataError when there are none.
        """
        drawn = np.random.default_rng(seed).permutation(len(self.targets))
        known: list[NDArray[np.int64]] = []
        for begin in range(0, len(drawn), _USERS_AT_ONCE):
            users = drawn[begin : begin + _USERS_AT_ONCE]
            is_known = np.isin(self.served_histories(users), vocabulary).any(axis=1)
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
class PreparedData(StepRecord):
    """Counts of what was prepared. Times are unix seconds."""

    article_count: int
    region_count: int
    user_count: int
    """Users that are learnt from."""
    view_count: int
    """Their training views."""
    example_count: int
    validation_count: int
    step_count: int
    """Steps from one known view to the next, in all sequences."""
    test_user_count: int
    """Users with a held-out view, of whom the sample holds some."""
    first_event: int
    """Of the training views, as is the last."""
    last_event: int
    cut_off: int
    """The newest view of all."""
    split: Split
    split_since: int | None

    @property
    def graph(self) -> TransformGraph:
        """The transform graph with its vocabularies."""
        return TransformGraph(self.directory / "transform")

    @property
    def hold_out(self) -> HoldOut:
        """How views were split."""
        return HoldOut(self.split, self.split_since)

    @property
    def examples(self) -> tuple[Path, ...]:
        """The training examples: gzipped TFRecords of tf.train.Example (`pipeline.examples`)."""
        return tuple(sorted((self.directory / "examples").glob("train-*")))

    @property
    def sequences(self) -> tuple[Path, ...]:
        """Users' known views, newest first: gzipped TFRecords (`pipeline.sequences`)."""
        return tuple(sorted((self.directory / "sequences").glob("sequences-*")))

    @property
    def validation_examples(self) -> tuple[Path, ...]:
        """Those that training stops on; where the draw gave none, all of them."""
        drawn = tuple(sorted((self.directory / "examples").glob("validation-*")))
        return drawn if self.validation_count else self.examples

    def sample(self) -> UserSample:
        """Read the sample of users."""
        return UserSample.read(self.directory / "users.parquet", self.hold_out)
