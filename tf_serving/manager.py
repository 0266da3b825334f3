"""Follows the directories of the models: loads what is new, drops what is no longer wanted."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tf_serving.config import ModelConfig
from tf_serving.errors import Code, InvalidInputError, LoadError, ModelNotFoundError
from tf_serving.metrics import ModelMetrics
from tf_serving.servable import Model, Servable
from tf_serving.versions import (
    Fingerprint,
    Load,
    State,
    Unload,
    VersionStatus,
    fingerprint,
    next_step,
    versions_in,
)

__all__ = ["ModelChoice", "ModelManager"]

logger = logging.getLogger(__name__)

_ENDED_KEPT: Final = 16
"""Versions no longer there whose last status is still told."""

OnChange = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class ModelChoice:
    """Which version of which model a request asks for: a number, a label, or else the newest."""

    name: str
    version: int | None = None
    label: str | None = None


class _FollowedModel:
    """One model: its versions, their states, and the steps between them."""

    def __init__(
        self,
        config: ModelConfig,
        load: Callable[[Path], Model],
        loader: Executor,
        metrics: ModelMetrics,
        on_change: OnChange,
    ) -> None:
        self.available: dict[int, Servable] = {}
        self.statuses: dict[int, VersionStatus] = {}
        self.config = config
        self._load_model = load
        self._loader = loader
        self._metrics = metrics
        self._on_change = on_change
        self._refused: dict[int, Fingerprint] = {}
        self._unreadable = False

    async def poll(self) -> None:
        """Look at the directory and take steps until nothing is left to do."""
        while (found := await self._find()) is not None:
            wanted = self.config.policy.wanted(found.keys())
            await self._announce(wanted)
            step = next_step(
                found=found.keys(),
                wanted=wanted,
                available=self.available.keys(),
                refused=self._refused.keys(),
            )
            match step:
                case Load(version):
                    await self._load(version, found[version])
                case Unload(version):
                    await self._unload(version)
                case None:
                    self._forget_ended(found)
                    return

    async def _find(self) -> Mapping[int, Path] | None:
        try:
            found = await asyncio.to_thread(versions_in, self.config.base_path)
        except OSError as error:
            # Perhaps not there yet, perhaps a mount that is briefly away: what is loaded stays.
            if not self._unreadable:
                logger.warning("cannot read the versions of %s: %s", self.config.name, error)
            self._unreadable = True
            return None
        self._unreadable = False
        for version, mark in list(self._refused.items()):
            # A version that failed is tried again once its files are others.
            path = found.get(version)
            if path is None or await asyncio.to_thread(fingerprint, path) != mark:
                del self._refused[version]
        return found

    async def _announce(self, wanted: frozenset[int]) -> None:
        for version, status in list(self.statuses.items()):
            if status.state is State.START and version not in wanted:
                await self._tell(VersionStatus(version, State.END))
        for version in wanted - self.available.keys() - self._refused.keys():
            started = VersionStatus(version, State.START)
            if self.statuses.get(version) != started:
                await self._tell(started)

    async def _load(self, version: int, path: Path) -> None:
        mark = await asyncio.to_thread(fingerprint, path)
        await self._tell(VersionStatus(version, State.LOADING))
        loop = asyncio.get_running_loop()
        try:
            model = await loop.run_in_executor(self._loader, self._load_model, path)
        except LoadError as error:
            logger.error("cannot load %s %d: %s", self.config.name, version, error)  # noqa: TRY400 - the message says it all
            await self._refuse(version, mark, error)
        except Exception as error:  # whatever it is, the other versions stay in service
            logger.exception("cannot load %s %d", self.config.name, version)
            await self._refuse(version, mark, LoadError(Code.UNKNOWN, str(error)))
        else:
            self.available[version] = Servable(version, model)
            logger.info("%s %d is in service", self.config.name, version)
            await self._tell(VersionStatus(version, State.AVAILABLE))

    async def _refuse(self, version: int, mark: Fingerprint, error: LoadError) -> None:
        self._refused[version] = mark
        self._metrics.count_failure(self.config.name, error.code)
        await self._tell(VersionStatus(version, State.END, error.code, str(error)))
        await self._free_memory()

    async def _unload(self, version: int) -> None:
        servable = self.available.pop(version)
        await self._tell(VersionStatus(version, State.UNLOADING))
        # Its memory is free before another version is loaded.
        await servable.wait_unused()
        del servable
        await self._free_memory()
        logger.info("%s %d is out of service", self.config.name, version)
        await self._tell(VersionStatus(version, State.END))

    async def _free_memory(self) -> None:
        # A TensorFlow model is full of reference cycles.
        await asyncio.get_running_loop().run_in_executor(self._loader, gc.collect)

    async def _tell(self, status: VersionStatus) -> None:
        self.statuses[status.version] = status
        self._metrics.set_available(self.config.name, len(self.available))
        await self._on_change()

    def _forget_ended(self, found: Mapping[int, Path]) -> None:
        ended = sorted(
            version
            for version, status in self.statuses.items()
            if status.state is State.END and version not in found
        )
        for version in ended[:-_ENDED_KEPT]:
            del self.statuses[version]


class ModelManager:
    """All models of a server; belongs to the event loop.

    `load` reads a version from its directory and runs in `loader`, so that calls go on meanwhile.
    `on_change` is awaited after every change of a version's state.
    """

    def __init__(
        self,
        configs: tuple[ModelConfig, ...],
        load: Callable[[Path], Model],
        loader: Executor,
        metrics: ModelMetrics,
        on_change: OnChange,
    ) -> None:
        self._metrics = metrics
        self._on_change = on_change
        self._models = {
            config.name: _FollowedModel(config, load, loader, metrics, self._changed)
            for config in configs
        }

    @property
    def ready(self) -> bool:
        """Whether every model has a version in service."""
        return all(model.available for model in self._models.values())

    def find(self, choice: ModelChoice) -> Servable:
        """Answer the version to use.

        Raises ModelNotFoundError where it is not in service, InvalidInputError for no name or an
        unknown label.
        """
        if not choice.name:
            raise InvalidInputError("ModelSpec has no name specified.")
        model = self._models.get(choice.name)
        available = model.available if model else {}
        version = choice.version if choice.label is None else self._labelled(choice)
        if version is None:
            servable = available[max(available)] if available else None
            asked = f"Latest({choice.name})"
        else:
            servable = available.get(version)
            asked = f"Specific({choice.name}, {version})"
        if servable is None:
            raise ModelNotFoundError(f"Servable not found for request: {asked}")
        return servable

    def _labelled(self, choice: ModelChoice) -> int:
        model = self._models.get(choice.name)
        version = model.config.labels.get(choice.label or "") if model else None
        if version is None:
            raise InvalidInputError(f"Unrecognized servable version label: {choice.label}")
        return version

    def statuses(self, name: str) -> list[VersionStatus]:
        """List the versions of a model that are or were of interest, newest first."""
        model = self._models.get(name)
        known = model.statuses if model else {}
        return [known[version] for version in sorted(known, reverse=True)]

    async def follow(self, poll_seconds: float) -> None:
        """Look for changes until cancelled."""
        await asyncio.gather(*(_follow(model, poll_seconds) for model in self._models.values()))

    async def _changed(self) -> None:
        newest = (max(model.available, default=0) for model in self._models.values())
        self._metrics.set_release(min(newest))
        await self._on_change()


async def _follow(model: _FollowedModel, poll_seconds: float) -> None:
    while True:
        try:
            await model.poll()
        except Exception:
            logger.exception("looking for versions of %s failed", model.config.name)
        await asyncio.sleep(poll_seconds)
