"""All steps in order, from a file of events to a published release."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
from pydantic import ValidationError

from faiss_server.build import BuildError
from pipeline._quiet import without_native_messages
from pipeline.collect import CollectedEvents, collect
from pipeline.errors import PipelineError, StepError
from pipeline.options import RunOptions
from pipeline.preprocess import PreparedData, preprocess
from releases.errors import ReleaseError, ReleaseExistsError
from releases.store import ReleaseStore

if TYPE_CHECKING:
    # These load TensorFlow; a wrong option or a bad file of events is told before that.
    from pipeline.evaluate import Evaluation
    from pipeline.gate import Decision
    from pipeline.index import IndexedArticles
    from pipeline.train import TrainedModel
    from releases.manifest import Manifest

__all__ = ["STEPS", "OnProgress", "RunResult", "run"]

STEPS: Final = ("collect", "preprocess", "train", "export", "evaluate", "index", "gate", "publish")

OnProgress = Callable[[str, float, str], None]
"""Told the step, the share of it that is done (0 to 1), and what to show beside it."""

_CAUSES: Final = (PipelineError, ReleaseError, BuildError, OSError, duckdb.Error, MemoryError)


@dataclass(frozen=True)
class RunResult:
    """What a run made, step by step."""

    manifest: Manifest | None
    """Of the published release; None where the gate refused it."""
    release: int
    decision: Decision
    collected: CollectedEvents
    prepared: PreparedData
    trained: TrainedModel
    evaluation: Evaluation
    indexed: IndexedArticles


def run(
    options: RunOptions, on_progress: OnProgress = lambda _step, _share, _message: None
) -> RunResult:
    """Run every step and publish what the gate lets through.

    Raises StepError, whose message is `step: cause`. A run that fails, or whose release is refused,
    leaves the store as it was.
    """
    with _naming("publish"):
        _refuse_published(options)
    with _step("collect", on_progress):
        collected = collect(options.events, options.items, options.workdir)
    with _step("preprocess", on_progress):
        prepared = preprocess(collected, options.preprocess, options.workdir)
    return _learn_and_publish(options, collected, prepared, on_progress)


def _learn_and_publish(
    options: RunOptions,
    collected: CollectedEvents,
    prepared: PreparedData,
    on_progress: OnProgress,
) -> RunResult:
    with without_native_messages():
        from pipeline import (  # noqa: PLC0415 - see above
            evaluate,
            export,
            gate,
            in_service,
            index,
            publish,
            train,
        )

    def on_round(done: train.Round) -> None:
        share = min(1.0, done.seconds / options.train.max_train_seconds)
        loss = f"epoch {done.epochs:.1f}, validation loss {done.validation_loss:.3f}"
        on_progress("train", share, loss)

    staging = options.workdir / "staging"
    with _step("train", on_progress):
        trained = train.train(prepared, options.train, options.workdir, on_round)
    with _step("export", on_progress):
        shutil.rmtree(staging, ignore_errors=True)
        exported = export.export(trained, prepared, staging, options.release)
    with _step("evaluate", on_progress):
        rival = in_service.fetch_release_in_service(options.store, options.workdir)
        evaluation = evaluate.evaluate(
            exported,
            prepared,
            None if rival is None else rival.exported,
            remove_seen=options.remove_seen,
            max_users=options.max_test_users,
        )
    with _step("index", on_progress):
        indexed = index.index_articles(
            exported, prepared, collected, recall_target=options.recall_target
        )
    with _step("gate", on_progress):
        decision = gate.decide(
            options.gate,
            evaluation,
            indexed,
            prepared,
            None if rival is None else rival.manifest,
            time.time(),
        )
    manifest = None
    if decision.accepted or options.gate.publish_anyway:
        with _step("publish", on_progress):
            manifest = publish.publish_release(
                exported, indexed, evaluation, prepared, options.store
            )
    return RunResult(
        manifest, options.release, decision, collected, prepared, trained, evaluation, indexed
    )


def _refuse_published(options: RunOptions) -> None:
    """Say so before the training rather than after it."""
    if ReleaseStore(options.store).is_published(options.release):
        raise ReleaseExistsError(
            f"{options.store} already has release {options.release}; give another --release"
        )


@contextmanager
def _step(name: str, on_progress: OnProgress) -> Iterator[None]:
    on_progress(name, 0.0, "")
    with _naming(name):
        yield
    on_progress(name, 1.0, "")


@contextmanager
def _naming(step: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        error = PipelineError(f"{cause.title}: {field}: {first['msg']}")
        raise StepError(step, error) from cause
    except _CAUSES as cause:
        raise StepError(step, cause) from cause
