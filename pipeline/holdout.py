"""Which views of a user are for learning, and which one is for asking whether it was learnt."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = ["HoldOut", "Scan", "Split", "Views", "choose_hold_out", "scan", "views_of"]

Split = Literal["time", "last-view"]

_TESTED_SHARE: Final = 0.1
_ROWS_AT_ONCE: Final = 4096


@dataclass(frozen=True)
class Views:
    """Some users' views; user u's are the places `offsets[u]:offsets[u + 1]`, oldest first."""

    offsets: NDArray[np.int64]
    article_ids: NDArray[np.int64]
    region_ids: NDArray[np.int64]
    viewed_at: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64[users]: how many views each user has."""
        return np.diff(self.offsets)


def views_of(batch: pa.RecordBatch) -> Views:
    """Look into a batch of histories without copying the views."""
    lists = batch.column("article_ids")
    return Views(
        offsets=_offsets(lists),
        article_ids=lists.flatten().to_numpy(zero_copy_only=False),
        region_ids=batch.column("region_ids").flatten().to_numpy(zero_copy_only=False),
        viewed_at=batch.column("viewed_at").flatten().to_numpy(zero_copy_only=False),
    )


@dataclass(frozen=True)
class HoldOut:
    """How views are split; what is held out is in no training example and no count.

    `last-view` holds out each user's last view. `time` holds out all views from `since` (unix
    seconds) on; each user seen since then is asked for the last of them, with a history that
    goes up to it, as the servers would have had it.
    """

    split: Split
    since: int | None = None

    def training_counts(self, views: Views) -> NDArray[np.int64]:
        """Count each user's views that are for learning: the oldest ones, int64[users]."""
        if self.since is None:
            return np.where(views.counts >= 2, views.counts - 1, views.counts)
        before = np.concatenate([[0], np.cumsum(views.viewed_at < self.since)])
        counts: NDArray[np.int64] = before[views.offsets[1:]] - before[views.offsets[:-1]]
        return counts

    def is_tested(self, views: Views) -> NDArray[np.bool_]:
        """Tell which users have a last view that is held out, and one before it, bool[users]."""
        return (views.counts >= 2) & (self.training_counts(views) < views.counts)


@dataclass(frozen=True)
class Scan:
    """One look at all users, before anything is made of them."""

    view_counts: NDArray[np.int64]
    last_viewed_at: NDArray[np.int64]

    @property
    def user_count(self) -> int:
        """Users with at least one view."""
        return len(self.view_counts)


def scan(shards: Iterable[Path]) -> Scan:
    """Read of each user how many views there are, and when the last one was."""
    counts, last = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["viewed_at"]):
                offsets = _offsets(batch.column(0))
                counts.append(np.diff(offsets))
                last.append(batch.column(0).flatten().to_numpy()[offsets[1:] - 1])
    return Scan(np.concatenate(counts), np.concatenate(last))


def choose_hold_out(
    split: Split, seen: Scan, most_tested: int, since: int | None = None
) -> HoldOut:
    """Settle the split. The one by time is at `since` or, without, as late as the wanted number of
    test users allows, as what comes after it is not learnt: a tenth of the users, at most
    `most_tested`.
    """
    if split == "last-view":
        return HoldOut(split)
    if since is not None:
        return HoldOut(split, since)
    last = np.sort(seen.last_viewed_at[seen.view_counts >= 2])[::-1]
    wanted = max(1, min(most_tested, int(len(last) * _TESTED_SHARE)))
    return HoldOut(split, int(last[wanted - 1]) if len(last) else 0)


def _offsets(lists: pa.Array) -> NDArray[np.int64]:
    """Offsets from zero: those of a slice begin where the slice does."""
    offsets: NDArray[np.int64] = lists.offsets.to_numpy().astype(np.int64)
    offsets -= offsets[0]
    return offsets
