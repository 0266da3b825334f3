"""What a step leaves in its folder: files, and last of all a record of what they are."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import PipelineError
from releases._atomic import replacing

__all__ = ["RECORD_FILE", "RecordError", "StepRecord", "has_ended"]

RECORD_FILE: Final = "record.json"


class RecordError(PipelineError):
    """A step's folder has no record, or one of another version of the workflow."""


def has_ended(directory: Path) -> bool:
    """Whether the step that this folder belongs to ended well: its record is written last."""
    return (directory / RECORD_FILE).exists()


@dataclass(frozen=True)
class StepRecord:
    """Base of what steps hand on: plain values, and paths as properties below `directory`.

    Nothing in the record names a place, so a folder can be moved: Kubeflow does.
    """

    directory: Path

    def save(self) -> None:
        """Write the record in one step, after all files of the folder."""
        document = TypeAdapter(type(self)).dump_python(self, mode="json")
        del document["directory"]
        with replacing(self.directory / RECORD_FILE) as stream:
            stream.write(json.dumps(document, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record of a folder, wherever that is now. Raises RecordError."""
        path = directory / RECORD_FILE
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
            return TypeAdapter(cls).validate_python({**document, "directory": directory})
        except FileNotFoundError:
            raise RecordError(
                f"{directory}: this step has not ended: {RECORD_FILE} is missing"
            ) from None
        except (ValueError, ValidationError) as cause:
            names = ", ".join(field.name for field in dataclasses.fields(cls))
            raise RecordError(
                f"{path}: not a record of {names}; remove the folder and run the step again"
            ) from cause
