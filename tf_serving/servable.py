"""A version in memory and the calls that are using it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from service_runtime.short_work import ShortWork
from tf_serving.signature import Array, Signature

__all__ = ["Model", "Servable"]


class Model(Protocol):
    """What can be asked of a model in memory."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Functions by name."""

    @property
    def signature_def_map(self) -> bytes:
        """A serialized tensorflow.serving.SignatureDefMap, as the SavedModel has it."""

    def run(
        self, signature_name: str, inputs: Mapping[str, Array], output_filter: Sequence[str]
    ) -> dict[str, Array]:
        """Compute; blocks the calling thread."""


class Servable:
    """One version of a model, counted while in use; belongs to the event loop."""

    def __init__(self, version: int, model: Model) -> None:
        self.version = version
        self.model = model
        self.pace = ShortWork()
        self._calls = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the version in memory for the length of a call."""
        self._calls += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._unused.set()

    async def wait_unused(self) -> None:
        """Wait for the last call to end."""
        await self._unused.wait()
