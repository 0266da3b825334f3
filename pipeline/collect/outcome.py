"""What became of a log, from whichever source: the row that `sql.summary` gives, with names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pipeline.collect.collected import CollectedEvents
from pipeline.collect.files import Read
from pipeline.options import CollectOptions

__all__ = ["Outcome"]

_DAY_SECONDS: Final = 86_400.0
_HALF_LIVES: Final = 16
"""From the first view to the last: by docs/quality.md never worse than plain counts."""


@dataclass(frozen=True)
class Outcome:
    """The events that were read, and the views that the window holds."""

    read: Read
    future: int
    over_the_cap: int
    views: int
    users: int
    articles: int
    last_region: int
    first_at: int
    last_at: int

    @classmethod
    def of(cls, read: Read, summary: Sequence[int]) -> Self:
        """Name the columns of `sql.summary`."""
        return cls(read, *(int(value) for value in summary))

    def half_life(self, options: CollectOptions) -> float:
        """Answer after how many seconds a view weighs half as much in the popular lists."""
        if options.popular_half_life_days is not None:
            return options.popular_half_life_days * _DAY_SECONDS
        return max(1.0, (self.last_at - self.first_at) / _HALF_LIVES)

    def collected(self, directory: Path, *, has_items: bool) -> CollectedEvents:
        """Make the record of the step."""
        return CollectedEvents(
            directory=directory,
            event_count=self.views,
            user_count=self.users,
            article_count=self.articles,
            has_regions=self.last_region >= 0,
            first_event=self.first_at,
            last_event=self.last_at,
            rows_read=self.read.rows,
            bytes_scanned=self.read.bytes,
            duplicates_dropped=self.read.duplicates,
            unusable_dropped=self.read.unusable,
            future_dropped=self.future,
            views_dropped=self.over_the_cap,
            has_items=has_items,
        )
