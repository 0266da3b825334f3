"""What a run can be told, each with a default that fits most data."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from faiss_server.spec import AUTO
from pipeline.holdout import Split

__all__ = [
    "LATEST_SECOND",
    "BigQueryOptions",
    "CollectOptions",
    "GateOptions",
    "ModelKind",
    "PreprocessOptions",
    "RunOptions",
    "TowerSettings",
    "TrainOptions",
]

LATEST_SECOND: Final = 253_402_300_799
"""Of the year 9999; a time in milliseconds is beyond it."""

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_FirebaseName = Annotated[str, Field(pattern=r"^\w{1,40}$")]
"""Letters, digits and underscores: Firebase's own rule for events and their parameters."""

ModelKind = Literal["mean-pooling", "transformer"]


@dataclass(frozen=True)
class BigQueryOptions:
    """Where the log and the views are, and how much a query may cost."""

    project: str
    source: str
    """Daily tables as Firebase exports them: `dataset.events_*`, or with a project in front."""
    views: str
    """The table of views, `dataset.table`; it is made where there is none."""
    export_url: str
    """A folder of Cloud Storage that histories are exported to: `gs://bucket/folder`."""
    location: str | None = None
    max_bytes_billed: _Count | None = None
    """A query that would read more is refused by BigQuery before it runs; None: no limit."""


@dataclass(frozen=True)
class CollectOptions:
    """How the log is read."""

    views: Path | None = None
    """The DuckDB file with the views of a folder of daily files; None: beside the folder."""
    bigquery: BigQueryOptions | None = None
    """None: the log is in files."""
    look_back_days: Annotated[int, Field(ge=0)] = 2
    """How many days before the newest known one are read again for events that came late."""
    max_user_views: Annotated[int, Field(ge=2)] = 2_000
    """Of a user; older views are left out. Nobody views more, but robots do."""
    popular_half_life_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """After which a view counts half in the popular lists; None: a sixteenth of the time of all."""
    event_name: _FirebaseName = "view_article"
    """In a log of Firebase's; so are the names of the event's parameters."""
    article_param: _FirebaseName = "article_id"
    region_param: _FirebaseName = "region_id"


@dataclass(frozen=True)
class PreprocessOptions:
    """What counts as too rare to learn from, what is held out, and where Beam runs."""

    min_article_views: _Count = 2
    min_user_views: _Count = 1
    split: Split = "time"
    split_since: Annotated[int, Field(ge=0, le=LATEST_SECOND)] | None = None
    """Unix second that held-out views begin at, of a split by time; None: by `max_test_users`."""
    max_test_users: _Count = 10_000
    """The evaluation asks a uniform sample of so many users where there are more."""
    beam_arguments: tuple[str, ...] = ()
    """Beam's own options, such as `--runner=DataflowRunner`; none: this process."""

    @field_validator("split_since")
    @classmethod
    def _is_of_a_split_by_time(cls, since: int | None, told: ValidationInfo) -> int | None:
        if since is not None and told.data.get("split") == "last-view":
            raise PydanticCustomError(
                "split_since", "of a split by time alone: leave it out, or split by time"
            )
        return since


@dataclass(frozen=True)
class TrainOptions:
    """How the model is learnt."""

    model: ModelKind | None = None
    """None: by the amount of data (`pipeline.choice`)."""
    dimension: Annotated[int, Field(ge=4, le=1024)] = 64
    hidden_units: tuple[_Count, ...] = (128,)
    """Of mean pooling."""
    dropout: _Share | None = None
    """None: by the kind of model and the amount of data."""
    history_dropout: _Share = 0.3
    """Share of the views of a training history that the mean passes over."""
    region_dropout: _Share = 0.3
    """Share of the training examples whose region is hidden; requests may come without one."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    batch_size: _Count | None = None
    """Views to foretell in a step; None: by the amount of data."""
    max_train_seconds: Annotated[float, Field(gt=0)] = 3_600.0
    max_epochs: _Count | None = None
    """None: by the kind of model and the amount of data."""
    patience: _Count = 4
    """Rounds without a lower validation loss after which training ends."""
    seed: int = 1


@dataclass(frozen=True)
class TowerSettings:
    """All that shapes a user tower; with the weights it is the model."""

    model: ModelKind
    article_count: int
    region_count: int
    dimension: int
    hidden_units: tuple[int, ...]
    dropout: float
    history_dropout: float
    region_dropout: float
    layers: int
    heads: int


@dataclass(frozen=True)
class GateOptions:
    """What a release must be to be published."""

    max_drop: _Share = 0.1
    """Of HR@200 or NDCG@200 below those of the release in service, on the same users; a share."""
    max_fall: _Share = 0.3
    """The same below what the release in service had when it came, on other users of other days."""
    max_shrink: _Share = 0.2
    """Of the vocabulary below that of the release in service."""
    min_recall: float = 0.99
    """Of the 200 nearest articles that the index finds: the run's `recall_target`."""
    max_age_hours: Annotated[float, Field(gt=0)] | None = None
    """Of the newest event; None: any, for logs that are no longer written to."""
    publish_anyway: bool = False
    """Whether a release that does not pass is published all the same."""


@dataclass(frozen=True)
class RunOptions:
    """One run, from a file of events to a published release."""

    events: Path | None
    """A file of events, or a folder of daily ones; None: `collect` says where they are."""
    items: str | None
    """A file of titles and attributes, CSV or Parquet: a path, or any fsspec URL."""
    store: str
    collect: CollectOptions = field(default_factory=CollectOptions)
    window_days: Annotated[float, Field(gt=0)] | None = None
    """How far back events count; None: all there are."""
    release: _Count | None = None
    """The id of what is published; None: the unix second of the run's start."""
    preprocess: PreprocessOptions = field(default_factory=PreprocessOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    gate: GateOptions = field(default_factory=GateOptions)
    popularity_debias: _Share = 0.0
    """How much the logarithm of an article's views lowers its score; 0: not at all."""
    remove_seen: bool = True
    """Whether the evaluation leaves out what a user has already viewed."""
    recall_target: Annotated[float, Field(ge=0.5, le=1)] = 0.99
    index_spec: str = AUTO
    """A faiss factory string, or `auto`: by the number of articles and `index_memory_gib`."""
    index_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """What a faiss server may take for one release; None: as much as true vectors take."""
