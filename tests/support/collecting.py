"""Collecting from a file or a folder, with a window that holds everything unless it is given."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.collect import CollectedEvents
from pipeline.collect import collect as collect_step
from pipeline.options import CollectOptions
from pipeline.window import Window

UNTIL = 4_000_000_000

EVERYTHING = Window(Path(), release=1, since=None, until=UNTIL)


def collect(
    events: Path | None,
    items: str | None,
    directory: Path,
    options: CollectOptions = CollectOptions(),  # noqa: B008 - frozen
    window: Window = EVERYTHING,
) -> CollectedEvents:
    """Run the step."""
    return collect_step(options, replace(window), directory, events=events, items=items)


def rows_of_histories(collected: CollectedEvents) -> list[tuple[str, int, int, int]]:
    """User, article, region and time of each view, in the order of the histories."""
    return [
        (row["user_id"], *view)
        for shard in collected.histories
        for row in pq.read_table(shard).to_pylist()
        for view in zip(row["article_ids"], row["region_ids"], row["viewed_at"], strict=True)
    ]
