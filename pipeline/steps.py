"""The steps of the workflow, each run on its own: folders in, one folder out."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
from pydantic import ValidationError

from faiss_server.build import BuildError
from pipeline._library_errors import told_by_library
from pipeline._quiet import without_native_messages
from pipeline.collect import CollectedEvents, collect
from pipeline.copy import copy_model, discard_copy
from pipeline.errors import PipelineError, StepError, first_fault
from pipeline.evaluate import Evaluation, evaluate
from pipeline.exported import ExportedModel
from pipeline.gate import Candidate, Decision, decide
from pipeline.goldens import ask_goldens
from pipeline.in_service import fetch_release_in_service, manifest_in_service
from pipeline.index import IndexedArticles, index_articles
from pipeline.options import RunOptions
from pipeline.prepared import PreparedData
from pipeline.preprocess import preprocess
from pipeline.publish import publish_release
from pipeline.records import RECORD_FILE, StepRecord
from pipeline.samples import sample_predictions, write_samples
from pipeline.window import Window, choose_window
from releases.errors import ReleaseError

__all__ = ["REQUIRES", "STEPS", "OnProgress", "naming", "run_step"]

REQUIRES: Final[Mapping[str, tuple[str, ...]]] = {
    "window": (),
    "collect": ("window",),
    "preprocess": ("collect",),
    "train": ("preprocess",),
    "export": ("window", "preprocess", "train"),
    "evaluate": ("preprocess", "export"),
    "index": ("collect", "preprocess", "export"),
    "copy": ("export",),
    "gate": ("preprocess", "export", "evaluate", "index", "copy"),
    "publish": ("preprocess", "export", "evaluate", "index", "gate"),
}
"""Whose folders each step reads. Index, copy and evaluation need nothing of each other."""

STEPS: Final = tuple(REQUIRES)

OnProgress = Callable[[str, float, str], None]
"""Told the step, the share of it that is done (0 to 1), and what to show beside it."""

_CAUSES: Final = (PipelineError, ReleaseError, BuildError, OSError, duckdb.Error, MemoryError)


def run_step(
    name: str,
    options: RunOptions,
    inputs: Mapping[str, Path],
    output: Path,
    on_progress: OnProgress = lambda _step, _share, _message: None,
) -> StepRecord:
    """Run one step: read the folders of those it requires, write `output` and last its record.

    What is in `output` is begun anew, but for a training that was killed: of the same options and
    data, it goes on from its last checkpoint. Raises StepError, whose message is `step: cause`.
    """
    on_progress(name, 0.0, "")
    with naming(name):
        output.mkdir(parents=True, exist_ok=True)
        (output / RECORD_FILE).unlink(missing_ok=True)
        if name != "train":
            _empty(output)
        record = _RUN[name](options, inputs, output, on_progress)
        record.save()
    on_progress(name, 1.0, "")
    return record


@contextmanager
def naming(step: str) -> Iterator[None]:
    """Turn what can go wrong into a StepError."""
    try:
        yield
    except StepError:
        raise
    except ValidationError as cause:
        error = PipelineError(f"{cause.title}: {first_fault(cause)}")
        raise StepError(step, error) from cause
    except _CAUSES as cause:
        raise StepError(step, cause) from cause
    except Exception as cause:
        told = told_by_library(cause)
        if told is None:
            raise  # a mistake of ours: its traceback is what helps
        raise StepError(step, PipelineError(told)) from cause


def _empty(directory: Path) -> None:
    for each in directory.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


_Inputs = Mapping[str, Path]


def _window(options: RunOptions, _: _Inputs, output: Path, __: OnProgress) -> StepRecord:
    return choose_window(options.store, options.release, options.window_days, output)


def _collect(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    window = Window.load(inputs["window"])
    return collect(options.collect, window, output, events=options.events, items=options.items)


def _preprocess(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    return preprocess(CollectedEvents.load(inputs["collect"]), options.preprocess, output)


def _train(
    options: RunOptions, inputs: _Inputs, output: Path, on_progress: OnProgress
) -> StepRecord:
    with without_native_messages():
        from pipeline import train

    def on_round(done: train.Round) -> None:
        share = min(1.0, done.seconds / options.train.max_train_seconds)
        loss = f"epoch {done.epochs:.1f}, validation loss {done.validation_loss:.3f}"
        on_progress("train", share, loss)

    return train.train(_prepared(inputs), options.train, output, on_round)


def _export(options: RunOptions, inputs: _Inputs, output: Path, __: OnProgress) -> StepRecord:
    with without_native_messages():
        from pipeline import export, train

    trained = train.TrainedModel.load(inputs["train"])
    release = Window.load(inputs["window"]).release
    return export.export(
        trained, _prepared(inputs), output, release, popularity_debias=options.popularity_debias
    )


def _evaluate(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    rival = fetch_release_in_service(options.store, output)
    evaluation = evaluate(
        _exported(inputs),
        _prepared(inputs),
        None if rival is None else rival.exported,
        output,
        remove_seen=options.remove_seen,
    )
    if rival is not None:
        rival.keep_manifest_only()
    return evaluation


def _index(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    exported, prepared = _exported(inputs), _prepared(inputs)
    collected = CollectedEvents.load(inputs["collect"])
    memory = options.index_memory_gib
    indexed = index_articles(
        exported,
        prepared,
        collected,
        output,
        recall_target=options.recall_target,
        spec=options.index_spec,
        memory_bytes=None if memory is None else int(memory * 2**30),
    )
    shown = sample_predictions(prepared, exported, indexed, collected)
    write_samples(shown, indexed.samples)
    return indexed


def _copy(
    options: RunOptions, inputs: _Inputs, output: Path, on_progress: OnProgress
) -> StepRecord:
    def on_share(share: float) -> None:
        on_progress("copy", share, "")

    return copy_model(_exported(inputs), options.store, output, on_share)


def _gate(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    exported, prepared = _exported(inputs), _prepared(inputs)
    evaluation, indexed = _evaluation(inputs), _indexed(inputs)
    golden = ask_goldens(exported, indexed, prepared)
    candidate = Candidate(evaluation, indexed, prepared, golden.agreement(exported))
    manifest = manifest_in_service(evaluation.directory)
    decision = decide(options.gate, candidate, manifest, time.time(), output)
    if not decision.lets_through:
        discard_copy(options.store, exported.release)
    return decision


def _publish(options: RunOptions, inputs: _Inputs, output: Path, _: OnProgress) -> StepRecord:
    decision = Decision.load(inputs["gate"])
    if not decision.lets_through:
        raise PipelineError(f"the gate refused this release: {'; '.join(decision.reasons)}")
    return publish_release(
        _exported(inputs),
        _indexed(inputs),
        _evaluation(inputs),
        _prepared(inputs),
        options.store,
        output,
    )


def _prepared(inputs: _Inputs) -> PreparedData:
    return PreparedData.load(inputs["preprocess"])


def _exported(inputs: _Inputs) -> ExportedModel:
    return ExportedModel.load(inputs["export"])


def _indexed(inputs: _Inputs) -> IndexedArticles:
    return IndexedArticles.load(inputs["index"])


def _evaluation(inputs: _Inputs) -> Evaluation:
    return Evaluation.load(inputs["evaluate"])


_RUN: Final[Mapping[str, Callable[[RunOptions, _Inputs, Path, OnProgress], StepRecord]]] = {
    "window": _window,
    "collect": _collect,
    "preprocess": _preprocess,
    "train": _train,
    "export": _export,
    "evaluate": _evaluate,
    "index": _index,
    "copy": _copy,
    "gate": _gate,
    "publish": _publish,
}
