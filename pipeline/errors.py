"""What can go wrong in a run. Each message names the file and what to change."""

from pydantic import ValidationError

__all__ = [
    "DemoDataError",
    "EventsError",
    "GoldenError",
    "ItemsError",
    "PipelineError",
    "RolloutError",
    "SourceError",
    "StepError",
    "TooLittleDataError",
    "TrainingError",
    "first_fault",
]


class PipelineError(Exception):
    """Base of all errors of this package."""


class EventsError(PipelineError):
    """The file of events cannot be used; the message names the line."""


class SourceError(PipelineError):
    """The place that events are kept in cannot be read or written."""


class ItemsError(PipelineError):
    """The file of items cannot be used; the message names the line."""


class TooLittleDataError(PipelineError):
    """The events are in order, but nothing can be learnt from so few."""


class TrainingError(PipelineError):
    """Training gave no usable model."""


class DemoDataError(PipelineError):
    """The public data of the demo cannot be fetched or is not what it should be."""


class RolloutError(PipelineError):
    """Services could not be rolled to a release; the message names the service and the reason."""


class GoldenError(PipelineError):
    """A release does not answer in service what it must."""


class StepError(PipelineError):
    """A step of a run failed; the message is `step: cause`."""

    def __init__(self, step: str, cause: Exception) -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step


def first_fault(error: ValidationError) -> str:
    """Say the first thing that is wrong as `field.of.it: what`."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
