"""The published protocols: which held-out views are asked for, and what was known before each."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import PipelineError, TooLittleDataError
from pipeline.holdout import HoldOut, Scan, choose_hold_out, views_of
from pipeline.windows import find_repeats, history_windows

__all__ = ["Protocol", "Questions", "hold_out_of", "questions"]

Protocol = Literal["leave-one-out", "session-prefix", "time-split"]
"""`leave-one-out`: each user's last view. `time-split`: the last view of each user seen since some
second, which nothing since then was learnt for. `session-prefix`: each view since then that has
one of the same user's (or session's) before it."""

_MOST_TESTED = 10_000


@dataclass(frozen=True)
class Questions:
    """Held-out views; question q is asked of what is at `begins[q]:ends[q]` of the views."""

    article_ids: NDArray[np.int64]
    """int64[views]: raw ids of all users' views, user by user, oldest first."""
    learnt: NDArray[np.bool_]
    """bool[views]: whether the protocol lets a view be learnt from."""
    first: NDArray[np.bool_]
    """bool[views]: whether it is its user's first."""
    users: NDArray[np.int64]
    """int64[questions]: whom each question is about; those of one user are not independent."""
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    targets: NDArray[np.int64]
    """int64[questions]: raw id of the view that came."""
    regions: NDArray[np.int64]
    """int64[questions]: raw region id of that view, -1 unknown."""
    viewed_at: NDArray[np.int64]
    """int64[questions]: unix second of that view."""
    histories: NDArray[np.int64]
    """int64[questions, 50]: what the servers would have known, newest first, padded with -1."""

    def __len__(self) -> int:
        return len(self.targets)

    def viewed(self, question: int) -> NDArray[np.int64]:
        """Raw ids of all the user's views before the target, oldest first."""
        return self.article_ids[self.begins[question] : self.ends[question]]


def hold_out_of(protocol: Protocol, since: int | None, seen: Scan) -> HoldOut:
    """Settle what is held out; without `since` (unix seconds) as the workflow splits by time.

    Raises PipelineError for a `since` that the protocol has no use for.
    """
    if protocol == "leave-one-out":
        if since is not None:
            raise PipelineError(
                "--since says nothing to leave-one-out, which asks for each user's last view: "
                "leave it out or take another protocol"
            )
        return HoldOut("last-view")
    return choose_hold_out("time", seen, _MOST_TESTED, since)


def questions(shards: Iterable[Path], protocol: Protocol, hold_out: HoldOut) -> Questions:
    """Read all histories and ask by the protocol. Raises TooLittleDataError where nothing is."""
    table = pq.read_table([*shards]).combine_chunks()
    views = views_of(table.to_batches()[0])
    owners = np.repeat(np.arange(len(views.counts)), views.counts)
    age = np.arange(len(owners)) - views.offsets[:-1][owners]
    learnt = age < hold_out.training_counts(views)[owners]
    if protocol == "session-prefix":
        places = np.flatnonzero(~learnt & (age > 0))
    else:
        places = views.offsets[1:][hold_out.is_tested(views)] - 1
    if not len(places):
        raise TooLittleDataError("no view is held out that has another one before it")
    begins = views.offsets[:-1][owners[places]]
    repeats = find_repeats(views.article_ids, views.offsets)
    return Questions(
        article_ids=views.article_ids,
        learnt=learnt,
        first=age == 0,
        users=owners[places],
        begins=begins,
        ends=places,
        targets=views.article_ids[places],
        regions=views.region_ids[places],
        viewed_at=views.viewed_at[places],
        histories=history_windows(views.article_ids, repeats, begins, places, -1),
    )
