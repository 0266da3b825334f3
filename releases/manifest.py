"""The manifest: what a release is, and what must be true of its files."""

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from releases.errors import ManifestError
from releases.layout import HISTORY_LENGTH, Part, part_path

__all__ = [
    "SCHEMA_VERSION",
    "CurvePoint",
    "DataWindow",
    "FileEntry",
    "GoldenHistory",
    "GoldenQuery",
    "IndexInfo",
    "Manifest",
    "ModelSignature",
    "TensorSpec",
    "parse_manifest",
]

SCHEMA_VERSION: Final = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Servers tell numbers in messages, as int64 or int32.
Id = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Model):
    """One file, its path relative to the store."""

    path: str
    size: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_below_the_store(cls, path: str) -> str:
        normal = PurePosixPath(path)
        if normal.is_absolute() or not normal.parts or ".." in normal.parts or "\\" in path:
            raise ValueError(f"{path!r} is not a relative path below the store")
        # "a//etc" and "a/./b" would be other names of files, and NUL is no name at all.
        if str(normal) != path or not path.isprintable():
            raise ValueError(f"{path!r} is not a path in its plain form")
        return path


class DataWindow(_Model):
    """Times of the events that the release learnt from, unix seconds, both inclusive."""

    first_event: Id
    last_event: Id
    cut_off: Id
    """No later event was looked at, whether or not there was one."""
    held_out: Literal["time", "last-view"] | None = None
    """What was not learnt from: all since some second, or each user's last view; None: not told."""


class TensorSpec(_Model):
    """One named tensor of a signature; -1 in `shape` is any size."""

    dtype: str
    shape: tuple[int, ...]


class ModelSignature(_Model):
    """The serving signature of the SavedModel."""

    name: str = "serving_default"
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class CurvePoint(_Model):
    """What a search with so many lists finds and takes, one query at a time in one thread."""

    nprobe: Annotated[int, Field(ge=1)]
    refine_factor: Annotated[float, Field(ge=1)] = 1.0
    recall_at_200: Fraction
    p50_ms: Annotated[float, Field(ge=0)]
    p99_ms: Annotated[float, Field(ge=0)]


class IndexInfo(_Model):
    """How the index is searched and what that was measured to give."""

    type: str
    """faiss factory string, such as `IVF1024,Flat`."""
    lists: Annotated[int, Field(ge=1, lt=2**31)]
    nprobe: Annotated[int, Field(ge=1)]
    recall_at_200: Fraction
    """Mean over held-out user vectors, against exact search, with that nprobe."""
    refine_factor: Annotated[float, Field(ge=1)] = 1.0
    """So many times k articles are scored by the finer vectors beside the codes, if there are."""
    curve: tuple[CurvePoint, ...] = ()
    """Recall and latency with fewer and more lists, on the machine that built the index."""

    @model_validator(mode="after")
    def _probes_at_most_all_lists(self) -> Self:
        if self.nprobe > self.lists:
            raise ValueError(f"nprobe {self.nprobe} is more than the {self.lists} lists")
        return self


class GoldenQuery(_Model):
    """A user vector and what the index answers to it, best first."""

    vector: tuple[float, ...]
    article_ids: tuple[Id, ...]
    scores: tuple[float, ...]
    score_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """How far a score may be off, relative to the best score's size; processors differ in the
    last bits, and ids whose scores are that close may change places."""


class GoldenHistory(_Model):
    """Raw article ids, newest first, and the ids that model and index together must answer."""

    history: Annotated[tuple[Id, ...], Field(min_length=1, max_length=HISTORY_LENGTH)]
    region_id: Id | None = None
    expected_article_ids: Annotated[tuple[Id, ...], Field(min_length=1)]
    min_overlap: Annotated[float, Field(gt=0, le=1)] = 0.9


class Manifest(_Model):
    """A published release. It exists only once this document does."""

    schema_version: Literal[1] = SCHEMA_VERSION
    release: Annotated[int, Field(gt=0, lt=2**63)]
    """Id: the unix second at which the run started."""
    run_started: str
    """The same moment, ISO 8601 in UTC, for people."""
    data: DataWindow
    dimension: Annotated[int, Field(ge=1)]
    metric: Literal["inner_product"] = "inner_product"
    article_count: Annotated[int, Field(ge=1, lt=2**63)]
    vocabulary_sha256: Sha256
    """Of the article ids in vocabulary order, packed little-endian int64."""
    model_signature: ModelSignature
    index: IndexInfo
    offline_metrics: dict[str, float]
    """Such as `hr_at_200`, `ndcg_at_10`, `popularity_hr_at_200`."""
    versions: dict[str, str]
    """Of the libraries that made the release."""
    golden_queries: Annotated[tuple[GoldenQuery, ...], Field(min_length=1)]
    golden_histories: Annotated[tuple[GoldenHistory, ...], Field(min_length=1)]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _files_belong_to_the_release(self) -> Self:
        homes = tuple(part_path(part, self.release) + "/" for part in Part)
        for entry in self.files:
            if not entry.path.startswith(homes):
                raise ValueError(f"files: {entry.path} is no part of release {self.release}")
        if len({entry.path for entry in self.files}) != len(self.files):
            raise ValueError("files: a path is listed twice")
        return self

    @model_validator(mode="after")
    def _golden_queries_have_the_dimension(self) -> Self:
        for number, query in enumerate(self.golden_queries):
            if len(query.vector) != self.dimension:
                raise ValueError(
                    f"golden_queries.{number}.vector has {len(query.vector)} values, "
                    f"the dimension is {self.dimension}"
                )
            if len(query.article_ids) != len(query.scores):
                raise ValueError(f"golden_queries.{number}: ids and scores differ in number")
        return self

    def part_files(self, part: Part) -> tuple[FileEntry, ...]:
        """List the files of one part."""
        home = part_path(part, self.release) + "/"
        return tuple(entry for entry in self.files if entry.path.startswith(home))


def parse_manifest(text: str | bytes, source: str) -> Manifest:
    """Read a manifest; `source` is the place named in the error.

    Raises ManifestError, naming the first wrong field.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or "document"
        raise ManifestError(f"{source}: {field}: {first['msg']}") from None
