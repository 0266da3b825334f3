"""The steps of a call that is traced. Any other call pays one look at a variable for each of them.

The current step is kept here and not in OpenTelemetry's own context: servers that trace nothing
never load that package.
"""

from __future__ import annotations  # Step is a name for the type checker only

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service_runtime.opentelemetry_traces import Step

__all__ = [
    "Attributes",
    "annotate",
    "begin_step",
    "current",
    "go_on_with",
    "trace_id",
    "traced_call",
]

Attributes = Mapping[str, str | int | float | bool]

current: Final[ContextVar[Step | None]] = ContextVar("current_step", default=None)
"""The step that this code is part of; None: the call is not traced."""


def begin_step(name: str) -> Step | None:
    """Begin a step below the current one; its `end` ends it. None: the call is not traced."""
    above = current.get()
    return None if above is None else above.below(name)


class traced_call:  # noqa: N801 - reads as what it does
    """A context for a call to another server, as a step; it gives the metadata to call with, so
    that the other server goes on with the trace, or None where there is none.
    """

    __slots__ = ("_address", "_name", "_step")

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address

    def __enter__(self) -> tuple[tuple[str, str], ...] | None:
        above = current.get()
        if above is None:
            self._step = None
            return None
        self._step = above.below(self._name, called=self._address)
        return self._step.metadata

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self._step is not None:
            self._step.end(error)


def annotate(attributes: Attributes) -> None:
    """Say more of the current step: never whose call it is, nor which articles."""
    step = current.get()
    if step is not None:
        step.annotate(attributes)


def trace_id() -> str | None:
    """Answer the current trace as log lines name it, 32 hexadecimal digits."""
    step = current.get()
    return None if step is None else step.trace_id


def go_on_with(steps: Sequence[Step]) -> None:
    """Let this task work for several steps at once: below the first, with links to the others.

    A new task begins with the current step of whoever made it, which need not be one of these.
    """
    current.set(steps[0].beside(steps[1:]) if steps else None)
