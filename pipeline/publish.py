"""The last step: the manifest, with what the pair must answer, and the release into the store."""

import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import Evaluation
from pipeline.exported import SIGNATURE, ExportedModel
from pipeline.goldens import ask_goldens
from pipeline.index import IndexedArticles
from pipeline.prepared import PreparedData
from pipeline.records import StepRecord
from releases.checksums import describe_files
from releases.layout import HISTORY_LENGTH
from releases.manifest import (
    DataWindow,
    Manifest,
    ModelSignature,
    TensorSpec,
    parse_manifest,
)
from releases.publish import publish
from releases.rollout import Wait
from releases.store import ReleaseStore

__all__ = ["PublishedRelease", "publish_release"]

_LIBRARIES: Final = ("tensorflow-cpu", "keras", "faiss-cpu", "numpy", "duckdb", "recsys-serving")


@dataclass(frozen=True)
class PublishedRelease(StepRecord):
    """What is in the store now."""

    release: int
    store: str

    @property
    def manifest(self) -> Manifest:
        """Read the manifest as it was published."""
        path = self.directory / "manifest.json"
        return parse_manifest(path.read_bytes(), str(path))


def publish_release(
    exported: ExportedModel,
    indexed: IndexedArticles,
    evaluation: Evaluation,
    prepared: PreparedData,
    store: str,
    directory: Path,
) -> PublishedRelease:
    """Describe the files, add golden queries and histories, and publish.

    Where the very same files are published already, by a run that was killed right after, that is
    well. Raises ReleaseExistsError when the store has this release with others, NotInServiceError
    when the one before does not come into service, and pydantic's ValidationError when the parts
    make no sound manifest.
    """
    staging = directory / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    for part in (exported.directory, indexed.directory):
        _link(part, staging)
    manifest = _manifest(exported, indexed, evaluation, prepared, staging)
    target = ReleaseStore(store)
    there = target.manifest(manifest.release) if target.is_published(manifest.release) else None
    if there is None or there.files != manifest.files:
        wait = Wait(on_hindrance=lambda why: print(f"publish waits: {why}", file=sys.stderr))
        publish(target, staging, manifest, wait=wait)
    shutil.rmtree(staging)
    (directory / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n")
    return PublishedRelease(directory, manifest.release, store)


def _link(source: Path, staging: Path) -> None:
    """Lay the files of a folder beside those of another, without copying them where that works."""
    for file in sorted(source.rglob("*")):
        target = staging / file.relative_to(source)
        if not file.is_file() or file.parent == source:
            continue  # the step's own record is no part of a release
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, target)


def _manifest(
    exported: ExportedModel,
    indexed: IndexedArticles,
    evaluation: Evaluation,
    prepared: PreparedData,
    staging: Path,
) -> Manifest:
    goldens = ask_goldens(exported, indexed, prepared)
    return Manifest(
        release=exported.release,
        run_started=datetime.fromtimestamp(exported.release, UTC).isoformat(),
        data=DataWindow(
            first_event=prepared.first_event,
            last_event=prepared.last_event,
            cut_off=prepared.cut_off,
            held_out=prepared.split,
        ),
        dimension=exported.dimension,
        article_count=exported.article_count,
        vocabulary_sha256=_vocabulary_sha256(exported.article_ids()),
        model_signature=_signature(exported.dimension),
        index=indexed.info,
        offline_metrics=evaluation.offline_metrics(),
        versions={"python": platform.python_version()} | {n: version(n) for n in _LIBRARIES},
        golden_queries=goldens.queries(),
        golden_histories=goldens.answers(),
        files=describe_files(staging, exported.release),
    )


def _vocabulary_sha256(article_ids: NDArray[np.int64]) -> str:
    return hashlib.sha256(article_ids.astype("<i8").tobytes()).hexdigest()


def _signature(dimension: int) -> ModelSignature:
    return ModelSignature(
        name=SIGNATURE,
        inputs={
            "history": TensorSpec(dtype="int64", shape=(-1, HISTORY_LENGTH)),
            "region": TensorSpec(dtype="int64", shape=(-1,)),
        },
        outputs={
            "user_vector": TensorSpec(dtype="float32", shape=(-1, dimension)),
            "known": TensorSpec(dtype="int32", shape=(-1,)),
        },
    )
