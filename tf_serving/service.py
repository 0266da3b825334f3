"""What the model server does, apart from how it is asked."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from service_runtime.deadlines import Deadline
from service_runtime.errors import OutOfTimeError
from tf_serving.errors import ModelNotFoundError, SignatureNotFoundError
from tf_serving.manager import ModelChoice, ModelManager
from tf_serving.servable import Servable
from tf_serving.signature import DEFAULT_SIGNATURE, Array
from tf_serving.versions import VersionStatus

__all__ = ["Metadata", "ModelService", "Prediction"]

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """Outputs by name, and the version and signature that computed them."""

    version: int
    signature_name: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Metadata:
    """The signatures of one version, as a serialized tensorflow.serving.SignatureDefMap."""

    version: int
    signature_def_map: bytes


class ModelService:
    """Computes, and tells what can be computed.

    At most `threads` calls are in `executor` at once, which has as many threads: the others wait
    here, where a caller that leaves or runs out of time takes its call along.
    """

    def __init__(self, manager: ModelManager, executor: Executor, threads: int) -> None:
        self._manager = manager
        self._executor = executor
        self._slots = asyncio.Semaphore(threads)

    async def predict(
        self,
        choice: ModelChoice,
        signature_name: str,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str],
        deadline: Deadline,
    ) -> Prediction:
        """Run one signature.

        Raises ModelNotFoundError, SignatureNotFoundError, InvalidInputError or OutOfTimeError.
        """
        servable = self._manager.find(choice)
        name = signature_name or DEFAULT_SIGNATURE
        signature = servable.model.signatures.get(name)
        if signature is None:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        signature.check(inputs, output_filter)
        with servable.in_use():
            outputs = await self._run(
                servable, lambda: servable.model.run(name, inputs, output_filter), deadline
            )
        return Prediction(servable.version, name, outputs)

    async def _run(self, servable: Servable, work: Callable[[], T], deadline: Deadline) -> T:
        def timed() -> T:
            started = time.perf_counter()
            result = work()
            servable.pace.learn(time.perf_counter() - started)
            return result

        if servable.pace.is_short():
            deadline.budget()
            return timed()
        return await self._in_thread(timed, deadline)

    def statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        """List the states of a model's versions, newest first, or that of one of them.

        Raises ModelNotFoundError where there is none.
        """
        statuses = self._manager.statuses(name)
        if version is None:
            if not statuses:
                raise ModelNotFoundError(f"Could not find any versions of model {name}")
            return statuses
        chosen = [status for status in statuses if status.version == version]
        if not chosen:
            raise ModelNotFoundError(f"Could not find version {version} of model {name}")
        return chosen

    def metadata(self, choice: ModelChoice) -> Metadata:
        """Answer the signatures of a version; raises ModelNotFoundError or InvalidInputError."""
        servable = self._manager.find(choice)
        return Metadata(servable.version, servable.model.signature_def_map)

    async def _in_thread(self, work: Callable[[], T], deadline: Deadline) -> T:
        await self._take_slot(deadline)
        try:
            # Submitted late, the answer would be of no use but still take a core.
            deadline.budget()
            return await self._finished(
                asyncio.get_running_loop().run_in_executor(self._executor, work)
            )
        finally:
            self._slots.release()

    async def _take_slot(self, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.budget()):
                await self._slots.acquire()
        except TimeoutError:
            raise OutOfTimeError("the deadline passed while waiting for a thread") from None

    @staticmethod
    async def _finished(future: asyncio.Future[T]) -> T:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread cannot be stopped: slot and model are in use until it ends.
            await asyncio.wait([future])
            raise
