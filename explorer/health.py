"""How all parts are, at one moment."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from explorer.channels import Channels, addresses_of
from explorer.config import ExplorerSettings, Target, parse_targets
from explorer.parts import (
    Look,
    PartHealth,
    State,
    look_at_faiss_server,
    look_at_model_server,
    look_at_recommender,
    look_at_redis,
)

__all__ = ["FAISS_SERVER", "Health", "HealthWatch"]

FAISS_SERVER: Final = "faiss server"
_MOST_SECONDS: Final = 1.0  # the page looks every 2 s

LookAt = Callable[[Look], Awaitable[PartHealth]]


@dataclass(frozen=True, slots=True)
class Health:
    """The parts in a fixed order."""

    parts: tuple[PartHealth, ...]

    @property
    def all_serve(self) -> bool:
        """Whether there is nothing to see."""
        return all(part.state is State.SERVING for part in self.parts)

    @property
    def summary(self) -> str:
        """One line that changes only when a part does."""
        if self.all_serve:
            return f"all {len(self.parts)} parts serve"
        ill = [part for part in self.parts if part.state is not State.SERVING]
        return "; ".join(f"{part.part} {part.state}" for part in ill)

    @property
    def releases_in_service(self) -> tuple[int, ...]:
        """What the faiss servers can be searched in, newest first."""
        ready = {
            held.release
            for part in self.parts
            if part.part == FAISS_SERVER
            for held in part.releases
            if held.ready
        }
        return tuple(sorted(ready, reverse=True))


class HealthWatch:
    """Looks at every address of every part."""

    def __init__(self, settings: ExplorerSettings, channels: Channels) -> None:
        self._settings = settings
        self._channels = channels
        self._seconds = min(_MOST_SECONDS, settings.deadline_seconds)

    async def look(self) -> Health:
        """Look at all parts at once; whatever is wrong with one is a finding, not an error."""
        settings = self._settings

        async def look_at_model(look: Look) -> PartHealth:
            return await look_at_model_server(look, settings.model_name)

        recommenders, redis, indexes, models = await asyncio.gather(
            self._look_at_all("recommender", settings.recommender, look_at_recommender),
            self._look_at_all("Redis", settings.recommender, look_at_redis),
            self._look_at_all(FAISS_SERVER, settings.faiss_servers, look_at_faiss_server),
            self._look_at_all("model server", settings.model_servers, look_at_model),
        )
        seen = _seen_through(recommenders, redis)
        return Health((*recommenders, *seen, *indexes, *models))

    async def _look_at_all(self, part: str, targets: str, how: LookAt) -> Sequence[PartHealth]:
        looked = [self._look_at_target(part, target, how) for target in parse_targets(targets)]
        return [health for found in await asyncio.gather(*looked) for health in found]

    async def _look_at_target(self, part: str, target: Target, how: LookAt) -> list[PartHealth]:
        try:
            addresses = await addresses_of(target, self._seconds)
        except OSError as error:
            return [PartHealth(part, str(target), State.DOWN, detail=str(error))]
        looks = [
            Look(part, address, self._channels.to(address, target.host), self._seconds)
            for address in addresses
        ]
        return await asyncio.gather(*(how(look) for look in looks))


def _seen_through(
    recommenders: Sequence[PartHealth], redis: Sequence[PartHealth]
) -> list[PartHealth]:
    """Say of Redis what a recommender that answers says of it; there is one Redis for all."""
    answering = [
        seen
        for recommender, seen in zip(recommenders, redis, strict=False)
        if recommender.state is not State.DOWN
    ]
    if not answering:
        detail = "only the recommender can tell"
        return [PartHealth("Redis", "through GetHistory", State.UNKNOWN, detail=detail)]
    best = next((seen for seen in answering if seen.state is State.SERVING), answering[0])
    return [replace(best, address="through GetHistory")]
