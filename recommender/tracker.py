"""Which release to answer from: the pair of model and index that is proven to belong together."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from recommender.backends import (
    GoldenHistory,
    Retriever,
    Usage,
    UserTower,
    padded_histories,
)
from recommender.domain import Int64s, Ranking
from recommender.fleet import Fleet
from recommender.popular import PopularArticles
from recommender.split import Split, release_of, releases_of
from service_runtime.errors import (
    BackendUnavailableError,
    CallError,
    ReleaseNotHeldError,
)

__all__ = ["Pin", "ReleaseTracker", "choose_release"]

logger = logging.getLogger(__name__)

_PROOF_SECONDS = 5.0
_RETRY_SECONDS = 0.25


@dataclass(frozen=True)
class Pin:
    """A release that may be answered from, and its popular articles."""

    release: int
    popular: PopularArticles


def choose_release(
    model_holders: Mapping[int, int],
    index_holders: Mapping[int, int],
    models_loaded: int,
    indexes_loaded: int,
) -> int | None:
    """Choose the newest release that every address holds which holds any; where there is none, the
    newest that at least one address of each side holds.

    Arguments count the holders of each release, and the addresses that hold any.
    """
    common = sorted(model_holders.keys() & index_holders.keys(), reverse=True)
    for release in common:
        everywhere = (
            model_holders[release] >= models_loaded and index_holders[release] >= indexes_loaded
        )
        if everywhere:
            return release
    return common[0] if common else None


class ReleaseTracker:
    """Watches both fleets, proves each common release once, and pins one.

    The pin stays when nothing better is known: its popular articles are in memory, and they are
    what is left to answer when every backend is away.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changed = asyncio.Event()
        self._proven: dict[int, Pin] = {}
        self._refused: set[int] = set()
        self._being_proven: set[int] = set()
        self._obstacles: dict[int, str] = {}
        self._pin: Pin | None = None
        self._in_service: frozenset[int] = frozenset()
        self._split: Split | None = None
        self._fleets: tuple[Fleet[UserTower], Fleet[Retriever]] | None = None
        self._first_pin = asyncio.Event()
        self._gauge = Gauge(
            "recsys_release",
            "Release by kind, as its id (the unix second of its run); 0: none.",
            ["kind"],
            registry=registry,
            multiprocess_mode="livemin",  # a worker that does not come along shows
        ).labels("pinned")
        self._refusals = Counter(
            "recsys_release_refused_total",
            "Releases whose model and index do not belong together.",
            registry=registry,
        )

    def notice(self) -> None:
        """Have the choice made anew; for the fleets to call."""
        self._changed.set()

    def reconsider(self) -> None:
        """Make the choice anew at once; for a call that found its release gone."""
        if self._fleets is not None:
            self._repin(*self._fleets)

    async def wait_for_first_pin(self) -> None:
        """Return once there is something to answer from."""
        await self._first_pin.wait()

    @property
    def current(self) -> Pin | None:
        """Answer what a user of no split is answered from; None while there is nothing."""
        return self._pin

    @property
    def usage(self) -> Usage:
        """Answer what is answered from now, for those who hold it to keep it."""
        pinned = frozenset() if self._pin is None else frozenset({self._pin.release})
        split = self._split and releases_of(self._split, self._in_service)
        return Usage(split or pinned, frozenset(self._refused))

    def pin_for(self, user_id: str, release: int | None = None) -> Pin:
        """Answer what to answer this user from: the release named, else the split's, else the pin.

        Raises BackendUnavailableError while there is no pin, ReleaseNotHeldError when the named
        release is not in service.
        """
        if release is not None:
            if release not in self._in_service:
                raise ReleaseNotHeldError(f"release: {release} is not in service")
            return self._proven[release]
        if self._pin is None:
            raise BackendUnavailableError(
                "no release is ready on both the model server and the faiss server"
            )
        if self._split is None:
            return self._pin
        chosen = release_of(user_id, self._split, self._in_service)
        return self._pin if chosen is None else self._proven[chosen]

    async def run(self, models: Fleet[UserTower], indexes: Fleet[Retriever]) -> None:
        """Follow the fleets until cancelled."""
        self._fleets = (models, indexes)
        async with asyncio.TaskGroup() as proofs:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._repin(models, indexes)
                common = models.holders.keys() & indexes.holders.keys()
                known = self._proven.keys() | self._refused | self._being_proven
                # Beside this loop: a proof that hangs must not keep others from being pinned.
                for release in common - known:
                    self._being_proven.add(release)
                    proofs.create_task(self._prove(release, models, indexes))

    async def _prove(
        self, release: int, models: Fleet[UserTower], indexes: Fleet[Retriever]
    ) -> None:
        try:
            async with asyncio.timeout(_PROOF_SECONDS):
                await self._try_to_prove(release, models.pick(release), indexes.pick(release))
        except (CallError, TimeoutError) as error:
            self._report_obstacle(release, str(error) or "no answer in time")
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._being_proven.discard(release)
            self._changed.set()

    async def _try_to_prove(
        self, release: int, model: UserTower | None, index: Retriever | None
    ) -> None:
        if model is None or index is None:
            return
        goldens = await index.golden_histories(release, _PROOF_SECONDS)
        answers = await _replay(release, goldens, model, index)
        popular = await index.popular(release, _PROOF_SECONDS)
        # Of this server and after its answers: what was taken down meanwhile is missing in them.
        taken_down = (await index.status(_PROOF_SECONDS)).taken_down
        if reason := _objection(goldens, answers, taken_down):
            logger.error("release %d: refused: %s", release, reason)
            self._refused.add(release)
            self._refusals.inc()
            return
        logger.info("release %d: model and index belong together", release)
        self._proven[release] = Pin(release, popular)

    def _report_obstacle(self, release: int, why: str) -> None:
        # The proof is tried again and again; the same obstacle is worth one line.
        if self._obstacles.get(release) != why:
            logger.warning("release %d: cannot be proven yet: %s", release, why)
            self._obstacles[release] = why

    def _repin(self, models: Fleet[UserTower], indexes: Fleet[Retriever]) -> None:
        held = models.holders.keys() | indexes.holders.keys()
        self._refused &= held
        self._obstacles = {r: why for r, why in self._obstacles.items() if r in held}
        self._proven = {
            release: pin
            for release, pin in self._proven.items()
            if release in held or pin is self._pin
        }
        self._in_service = frozenset(
            self._proven.keys() & models.holders.keys() & indexes.holders.keys()
        )
        self._split = indexes.split
        chosen = choose_release(
            {r: len(models.holders.get(r, ())) for r in self._proven if r in models.holders},
            {r: len(indexes.holders.get(r, ())) for r in self._proven if r in indexes.holders},
            models.loaded,
            indexes.loaded,
        )
        if chosen is None or (self._pin and chosen == self._pin.release):
            return
        self._pin = self._proven[chosen]
        self._gauge.set(chosen)
        self._first_pin.set()
        logger.info("release %d: pinned", chosen)


async def _replay(
    release: int, goldens: Sequence[GoldenHistory], model: UserTower, index: Retriever
) -> list[Ranking]:
    if not goldens:
        return []
    regions = [-1 if golden.region_id is None else golden.region_id for golden in goldens]
    users = await model.user_vectors(
        release,
        padded_histories([list(golden.history) for golden in goldens]),
        np.array(regions, np.int64),
        _PROOF_SECONDS,
    )
    k = max(golden.expected.size for golden in goldens)
    return await index.search(release, users.vectors, k, timeout_seconds=_PROOF_SECONDS)


def _objection(
    goldens: Sequence[GoldenHistory], answers: Sequence[Ranking], taken_down: Int64s
) -> str | None:
    if not goldens:
        return "it has no golden histories, so nothing shows that model and index belong together"
    for number, (golden, answer) in enumerate(zip(goldens, answers, strict=True)):
        top = answer.ids[: golden.expected.size]
        # What was taken down since the release was made says nothing of the pair.
        expected = golden.expected[~np.isin(golden.expected, taken_down)]
        overlap = np.isin(expected, top).mean() if expected.size else 1.0
        if overlap < golden.min_overlap:
            return (
                f"golden history {number}: {overlap:.0%} of the expected articles were answered, "
                f"at least {golden.min_overlap:.0%} must be"
            )
    return None
