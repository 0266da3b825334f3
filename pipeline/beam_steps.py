"""What Beam runs for preprocessing, in batches of Arrow: no view is ever a Python object.

This module loads Beam and TensorFlow Transform, which turns `tf.keras` into Keras 2 for the
process: only the process of this step imports it.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from tensorflow_transform import mappers
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
from tfx_bsl.tfxio.tensor_representation_util import GetTensorRepresentationsFromSchema

from pipeline.elsewhere import Elsewhere
from pipeline.examples import cut_examples
from pipeline.holdout import HoldOut, Views, views_of
from pipeline.sequences import cut_sequences
from pipeline.transform import ARTICLE_INDICES, ARTICLES, REGION_INDICES, REGIONS

__all__ = ["HISTORIES_SCHEMA", "Counts", "Plan", "make_examples"]

HISTORIES_SCHEMA: Final = pa.schema(
    {
        "user_id": pa.string(),
        "article_ids": pa.list_(pa.int64()),
        "region_ids": pa.list_(pa.int64()),
        "viewed_at": pa.list_(pa.int64()),
    }
)

_USERS_AT_ONCE: Final = 1_000
_TRAIN, _VALIDATION, _SEQUENCES = "train", "validation", "sequences"
_FOLDER_OF: Final = {_TRAIN: "examples", _VALIDATION: "examples", _SEQUENCES: "sequences"}
_COUNTERS: Final = "pipeline"
_VIEWED_AT: Final = "viewed_at"
_LARGEST_HASH: Final = 1 << 32


@dataclass(frozen=True)
class Plan:
    """All that the workers have to know."""

    hold_out: HoldOut
    min_article_views: int
    min_user_views: int
    validated_share: float
    """Of users, whose last example is for validation."""
    tested_share: float
    """Of the users with a held-out view, who are sampled."""
    others_share: float
    """Of the users without, who are sampled."""


@dataclass(frozen=True)
class Counts:
    """What the workers counted."""

    users: int
    views: int
    unknown_views: int
    train: int
    validation: int
    steps: int
    """From a known view to the next known one, of all sequences."""
    first_event: int
    last_event: int
    by_history_length: dict[str, int]
    """Examples by the known and unknown articles in their history, in steps of ten."""


def make_examples(
    shards: Sequence[Path], plan: Plan, directory: Path, beam_arguments: Sequence[str]
) -> Counts:
    """Write `transform/`, `examples/`, `sequences/` and `users.parquet` below `directory`.

    In one Beam pipeline. Where it runs is said by `beam_arguments` alone, such as
    `--runner=DataflowRunner`. Workers elsewhere see no folder of this machine: with
    `--temp_location` they read and write below it, and what they wrote is brought here.
    """
    options = PipelineOptions(list(beam_arguments))
    place = options.view_as(GoogleCloudOptions).temp_location
    if place is None:
        return _run(options, [str(shard) for shard in shards], plan, str(directory))
    with Elsewhere(place) as elsewhere:
        counts = _run(options, elsewhere.bring(shards), plan, elsewhere.url)
        elsewhere.fetch(("transform", "examples", "sequences", "users.parquet"), directory)
    return counts


def _run(options: PipelineOptions, shards: Sequence[str], plan: Plan, directory: str) -> Counts:
    schema = schema_utils.schema_from_feature_spec(_feature_spec())
    config = TensorAdapterConfig(_arrow_schema(), GetTensorRepresentationsFromSchema(schema))
    pipeline = beam.Pipeline(options=options)
    with tft_beam.Context(temp_dir=f"{directory}/beam"):
        tables = (
            pipeline
            | "Shards" >> beam.Create(list(shards))
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.io.ReadAllFromParquetBatched()
            | "Batches" >> beam.FlatMap(_batches)
        )
        views = tables | "ForLearning" >> beam.ParDo(_ForLearning(plan))
        (indices, _), graph = (views, config) | tft_beam.AnalyzeAndTransformDataset(
            _Preprocessing(plan.min_article_views), output_record_batches=True
        )
        _ = graph | "WriteGraph" >> tft_beam.WriteTransformFn(f"{directory}/transform")
        examples = indices | "Cut" >> beam.ParDo(_Cut(plan)).with_outputs(
            _TRAIN, _VALIDATION, _SEQUENCES
        )
        for name, folder in _FOLDER_OF.items():
            _ = examples[name] | f"Write_{name}" >> beam.io.WriteToTFRecord(
                f"{directory}/{folder}/{name}", file_name_suffix=".tfrecord.gz"
            )
        _ = (
            tables
            | "Sample" >> beam.FlatMap(_sampled, plan)
            | "WriteSample" >> beam.io.WriteToParquetBatched(
                f"{directory}/users", HISTORIES_SCHEMA, num_shards=1,
                shard_name_template="", file_name_suffix=".parquet",
            )
        )  # fmt: skip
        result = pipeline.run()
        result.wait_until_finish()
    return _counts(result)


class _Preprocessing:
    """The preprocessing function of TensorFlow Transform; an object, so that it can be pickled."""

    def __init__(self, min_article_views: int) -> None:
        self._min_article_views = min_article_views

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        articles, regions = inputs[ARTICLES], inputs[REGIONS]
        known_regions = tf.ragged.boolean_mask(regions, regions >= 0)
        return {
            ARTICLES: articles,
            ARTICLE_INDICES: _index(articles, articles, ARTICLES, self._min_article_views),
            REGION_INDICES: _index(regions, known_regions, REGIONS, 1),
        }


def _index(values: Any, counted: Any, name: str, least: int) -> Any:
    """Map to the place in the vocabulary plus one; 0 what is not in it."""
    vocabulary = tft.vocabulary(
        counted,
        frequency_threshold=least if least > 1 else None,
        store_frequency=True,
        vocab_filename=name,
    )
    # The public apply_vocabulary takes no file with counts.
    places = mappers._apply_vocabulary_internal(  # noqa: SLF001 - see above
        values, vocabulary, -1, 0, None, "text", True, name
    )
    return places + 1


class _ForLearning(beam.DoFn):  # type: ignore[misc] # beam is untyped here
    """Keep each user's training views; a user with too few views is not learnt from."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        views = views_of(batch)
        counts = self._plan.hold_out.training_counts(views)
        counts[views.counts < self._plan.min_user_views] = 0
        _count("users", int((counts > 0).sum()))
        _count("views", int(counts.sum()))
        yield _training_views(views, counts)


def _training_views(views: Views, counts: np.ndarray[Any, Any]) -> pa.RecordBatch:
    places = np.arange(len(views.article_ids)) - np.repeat(views.offsets[:-1], views.counts)
    kept = places < np.repeat(counts, views.counts)
    if kept.any():
        times = Metrics.distribution(_COUNTERS, _VIEWED_AT)
        times.update(int(views.viewed_at[kept].min()))
        times.update(int(views.viewed_at[kept].max()))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    columns = [
        pa.LargeListArray.from_arrays(offsets, pa.array(column[kept]))
        for column in (views.article_ids, views.region_ids)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_arrow_schema())


class _Cut(beam.DoFn):  # type: ignore[misc] # beam is untyped here
    """Cut examples and sequences and serialise them; some users' last view is for validation."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._encoder: Any = None

    def setup(self) -> None:
        self._encoder = RecordBatchToExamplesEncoder()

    def process(self, item: tuple[pa.RecordBatch, Any]) -> Iterator[Any]:
        batch = item[0]
        lists = batch.column(batch.schema.get_field_index(ARTICLES))
        offsets = lists.offsets.to_numpy().astype(np.int64)
        article_ids = lists.flatten().to_numpy()
        articles, regions = (
            batch.column(batch.schema.get_field_index(name)).flatten().to_numpy()
            for name in (ARTICLE_INDICES, REGION_INDICES)
        )
        examples = cut_examples(offsets - offsets[0], article_ids, articles, regions)
        _count("unknown_views", int((articles == 0).sum()))
        _count_lengths(examples.history)
        drawn = _drawn_by_views(offsets - offsets[0], article_ids, self._plan.validated_share)
        validated = examples.is_last & drawn[examples.users]
        for name, rows in ((_TRAIN, ~validated), (_VALIDATION, validated)):
            _count(name, int(rows.sum()))
            for record in self._encoder.encode(examples.take(rows)):
                yield beam.pvalue.TaggedOutput(name, record)
        sequences = cut_sequences(offsets - offsets[0], articles, regions, drawn)
        _count("steps", len(sequences.column(0).flatten()) - len(sequences))
        for record in self._encoder.encode(sequences):
            yield beam.pvalue.TaggedOutput(_SEQUENCES, record)


def _drawn_by_views(
    offsets: np.ndarray[Any, Any], article_ids: np.ndarray[Any, Any], share: float
) -> np.ndarray[Any, Any]:
    """Draw users by a hash of what they viewed: ids of users stay out of what is learnt from."""
    raw, limit = article_ids.tobytes(), int(share * _LARGEST_HASH)
    bounds = zip((offsets[:-1] * 8).tolist(), (offsets[1:] * 8).tolist(), strict=True)
    return np.fromiter((zlib.crc32(raw[a:b]) < limit for a, b in bounds), bool, len(offsets) - 1)


def _sampled(batch: pa.RecordBatch, plan: Plan) -> Iterator[pa.Table]:
    tested = plan.hold_out.is_tested(views_of(batch))
    hashes = np.fromiter(
        (zlib.crc32(user.encode()) for user in batch.column("user_id").to_pylist()), np.int64
    )
    share = np.where(tested, plan.tested_share, plan.others_share)
    rows = np.flatnonzero(hashes < share * _LARGEST_HASH)
    if len(rows):
        yield pa.Table.from_batches([batch.take(pa.array(rows))]).cast(HISTORIES_SCHEMA)


def _batches(table: pa.Table) -> Iterable[pa.RecordBatch]:
    chosen = table.select(HISTORIES_SCHEMA.names).cast(HISTORIES_SCHEMA)
    batches: list[pa.RecordBatch] = chosen.to_batches(max_chunksize=_USERS_AT_ONCE)
    return batches


def _feature_spec() -> dict[str, Any]:
    return {
        name: tf.io.RaggedFeature(tf.int64, value_key=name, row_splits_dtype=tf.int64)
        for name in (ARTICLES, REGIONS)
    }


def _arrow_schema() -> pa.Schema:
    return pa.schema({ARTICLES: pa.large_list(pa.int64()), REGIONS: pa.large_list(pa.int64())})


def _count(name: str, value: int) -> None:
    Metrics.counter(_COUNTERS, name).inc(value)


def _count_lengths(history: np.ndarray[Any, Any]) -> None:
    lengths = (history > 0).sum(axis=1) // 10 * 10
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        _count(f"history_{length}", int(count))


def _counts(result: Any) -> Counts:
    found = result.metrics().query(MetricsFilter().with_namespace(_COUNTERS))
    values = {each.key.metric.name: int(each.result) for each in found["counters"]}
    times = next((each.result for each in found["distributions"]), None)
    return Counts(
        users=values.get("users", 0),
        views=values.get("views", 0),
        unknown_views=values.get("unknown_views", 0),
        train=values.get(_TRAIN, 0),
        validation=values.get(_VALIDATION, 0),
        steps=values.get("steps", 0),
        first_event=0 if times is None else int(times.min),
        last_event=0 if times is None else int(times.max),
        by_history_length={
            name.removeprefix("history_"): values[name]
            for name in sorted(values, key=len)
            if name.startswith("history_")
        },
    )
