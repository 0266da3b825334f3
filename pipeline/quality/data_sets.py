"""The data sets with published results: where they are, how they are asked, what is to be reached.

Nothing here says how to learn: that is for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import duckdb

from pipeline.demo_data import fetch_movielens_100k
from pipeline.errors import EventsError
from pipeline.protocols import Protocol

__all__ = ["DATA_SETS", "DataSet", "Goal", "QualityData"]

_EVENTS: Final = "interactions.csv.gz"
_ITEMS: Final = "items.csv.gz"


@dataclass(frozen=True)
class Goal:
    """A metric's floor to pass, and where the best published models are."""

    metric: str
    must: float
    aim: float


@dataclass(frozen=True)
class QualityData:
    """Files to learn from."""

    events: Path
    items: Path | None
    since: int | None
    """Unix second that test views begin at; None where each user's last view is the test."""


@dataclass(frozen=True)
class DataSet:
    """Real events and how the tables that were published of them came about."""

    folder: str | None
    """Below DATA_DIR; None: fetched as the demo's data."""
    protocol: Protocol
    goals: tuple[Goal, ...]
    rows: str = "true"
    """SQL: which rows of the file count."""
    test_rows: str | None = None
    """SQL: which rows are the test; None: each user's last."""
    seeds: int = 1
    """How many seeds the figures are the mean of."""

    @property
    def removes_seen(self) -> bool:
        """Whether articles that were viewed are left out of the answers."""
        return self.protocol == "leave-one-out"

    def prepare(self, data_dir: Path, directory: Path, users: int | None = None) -> QualityData:
        """Write the rows that count into `directory`; `users`: of so many users alone.

        Raises EventsError where the data are not there or hold no test, DemoDataError where they
        can't be fetched, and DuckDB's errors where they are not of this form.
        """
        if self.folder is None:
            source, items = fetch_movielens_100k(directory.parent.parent / "cache"), None
        else:
            source, items = data_dir / self.folder / _EVENTS, data_dir / self.folder / _ITEMS
        if not source.exists():
            raise EventsError(f"{source}: no such file; DATA_DIR names the folder of data sets")
        events = directory / "events.parquet"
        return QualityData(
            events, items if items and items.exists() else None, self._copy(source, events, users)
        )

    def _copy(self, source: Path, events: Path, users: int | None) -> int | None:
        with duckdb.connect() as connection:
            # One thread and in order: views of the same second stay in the order of the file.
            connection.execute("SET threads = 1")
            connection.execute(
                f"""
                CREATE TABLE events AS SELECT * FROM read_csv(?, parallel = false) WHERE {self.rows}
                """,  # noqa: S608 - of the table below
                [str(source)],
            )
            if users is not None:
                connection.execute(
                    """
                    DELETE FROM events WHERE user_id NOT IN (
                        SELECT user_id FROM events GROUP BY user_id ORDER BY hash(user_id) LIMIT ?)
                    """,
                    [users],
                )
            connection.execute(
                """
                COPY (SELECT CAST(user_id AS VARCHAR) AS user_id, item_id, timestamp FROM events)
                TO ? (FORMAT parquet)
                """,
                [str(events)],
            )
            if self.test_rows is None:
                return None
            found = connection.execute(
                f"SELECT min(timestamp) FROM events WHERE {self.test_rows}"  # noqa: S608 - as above
            ).fetchone()
        (since,) = found or (None,)
        if since is None:
            raise EventsError(f"{source}: none of the rows that count is one with {self.test_rows}")
        return int(since)


DATA_SETS: Final[Mapping[str, DataSet]] = MappingProxyType(
    {
        # BERT4Rec, and SASRec by the full softmax: github.com/antklen/sasrec-bert4rec-recsys23
        "ml-1m-sasrec": DataSet(
            folder="ml-1m",
            rows="in_sasrec = 1",
            protocol="leave-one-out",
            goals=(Goal("HR@10", 0.2843, 0.3152), Goal("NDCG@10", 0.1537, 0.1821)),
        ),
        # HSTU-large: github.com/meta-recsys/generative-recommenders
        "ml-1m": DataSet(
            folder="ml-1m", protocol="leave-one-out", goals=(Goal("HR@200", 0.74, 0.7839),)
        ),
        # NARM and GCE-GNN, in the tables of the MGCOT paper; P@20 is HR@20
        "diginetica": DataSet(
            folder="diginetica",
            test_rows="split = 'test'",
            protocol="session-prefix",
            goals=(Goal("HR@20", 0.4970, 0.5422), Goal("MRR@20", 0.1617, 0.1904)),
        ),
        "ml-100k": DataSet(
            folder=None,
            protocol="leave-one-out",
            goals=(Goal("HR@200", 0.77, 0.80),),
            seeds=5,
        ),
    }
)
