"""Interim."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.export import ExportedModel
from pipeline.records import StepRecord


@dataclass(frozen=True)
class CopiedModel(StepRecord):
    file_count: int


def copy_model(exported: ExportedModel, store: str, directory: Path) -> CopiedModel:
    return CopiedModel(directory, 0)


def discard_copy(store: str, release: int) -> None:
    return
