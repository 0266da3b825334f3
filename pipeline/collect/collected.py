"""What collecting leaves in its folder."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.records import StepRecord

__all__ = ["CollectedEvents"]


@dataclass(frozen=True)
class CollectedEvents(StepRecord):
    """Histories and counts of the views of a window of time. Times are unix seconds."""

    event_count: int
    """Distinct views: a user, an article and a second."""
    user_count: int
    article_count: int
    has_regions: bool
    first_event: int
    last_event: int
    rows_read: int
    """Events that this run read from its source."""
    bytes_scanned: int
    """Bytes of the source that were read for it: what BigQuery charges for."""
    duplicates_dropped: int
    """Events that had been read before: in this run, or in an earlier one."""
    unusable_dropped: int
    """Events of the log without a user or with too long an id of one, with an article that is no
    whole number, or with a time more than two days after the day of the log that they came with.
    """
    future_dropped: int
    """Views that claim to come after the start of the run."""
    views_dropped: int
    """The oldest views of users with more than `CollectOptions.max_user_views`."""
    has_items: bool

    @property
    def histories(self) -> tuple[Path, ...]:
        """Parquet shards with one row a user, in order of `user_id` text: `article_ids`,
        `region_ids` (-1 unknown) and `viewed_at`, lists of int64, oldest view first.
        """
        return tuple(sorted((self.directory / "histories").glob("*.parquet")))

    @property
    def article_views(self) -> tuple[Path, ...]:
        """Parquet shards of int64: `article_id`, `region_id` (-1 unknown), `views`, and `weight`,
        that of the views by their age, in `sql.WEIGHT_UNITS`.
        """
        return tuple(sorted((self.directory / "article_views").glob("*.parquet")))

    @property
    def items(self) -> Path | None:
        """Parquet of `article_id`, `title` and int64 attributes; None when none were given."""
        return self.directory / "items.parquet" if self.has_items else None
