"""The kinds of user tower."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pipeline.mean_pooling import MeanPoolingTower
from pipeline.options import ModelKind, TowerSettings
from pipeline.tower import Tower
from pipeline.transformer import TransformerTower

__all__ = ["build_tower"]

_KINDS: Final[Mapping[ModelKind, Callable[[TowerSettings, int], Tower]]] = MappingProxyType(
    {"mean-pooling": MeanPoolingTower, "transformer": TransformerTower}
)


def build_tower(settings: TowerSettings, worker: int = 0) -> Tower:
    """Make a tower that has learnt nothing. `worker`: its place among those that learn together."""
    return _KINDS[settings.model](settings, worker)
