"""Popular articles of one release, held in memory: the answer that needs nobody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recommender.domain import AttributeFilter, Float32s, Int64s, Ranking
from service_runtime.errors import InvalidRequestError

__all__ = ["PopularArticles", "PopularList"]


@dataclass(frozen=True)
class PopularList:
    """Articles most viewed first, int64[n] and float32[n], and int64[n] of each attribute."""

    ids: Int64s
    views: Float32s
    attributes: Mapping[str, Int64s]

    def ranking(self, limit: int, excluded: Int64s, filters: Sequence[AttributeFilter]) -> Ranking:
        """Answer the first `limit` that pass."""
        keep = ~np.isin(self.ids, excluded) if excluded.size else np.ones(self.ids.size, bool)
        for condition in filters:
            keep &= self._passing(condition)
        chosen = np.flatnonzero(keep)[:limit]
        return Ranking(self.ids[chosen], self.views[chosen])

    def _passing(self, condition: AttributeFilter) -> NDArray[np.bool_]:
        column = self.attributes[condition.attribute]
        return np.isin(column, np.array(condition.values, np.int64), invert=condition.negated)


class PopularArticles:
    """The overall list, and one for each region that has views."""

    def __init__(self, overall: PopularList, by_region: Mapping[int, PopularList]) -> None:
        self._overall = overall
        self._by_region = by_region

    @property
    def attributes(self) -> frozenset[str]:
        """Name the attributes that articles of this release have."""
        return frozenset(self._overall.attributes)

    def check(self, filters: Sequence[AttributeFilter]) -> None:
        """Raise InvalidRequestError for an attribute that the release does not have."""
        for number, condition in enumerate(filters):
            if condition.attribute not in self.attributes:
                known = ", ".join(sorted(self.attributes)) or "none"
                raise InvalidRequestError(
                    f"filters[{number}].attribute: {condition.attribute!r} is unknown; "
                    f"this release has {known}"
                )

    def ranking(
        self,
        limit: int,
        excluded: Int64s,
        filters: Sequence[AttributeFilter] = (),
        region_id: int | None = None,
    ) -> Ranking:
        """Answer up to `limit` articles; where the region's run out, the overall ones follow."""
        local = None if region_id is None else self._by_region.get(region_id)
        if local is None:
            return self._overall.ranking(limit, excluded, filters)
        first = local.ranking(limit, excluded, filters)
        missing = limit - first.ids.size
        if missing == 0:
            return first
        rest = self._overall.ranking(missing, np.concatenate([excluded, first.ids]), filters)
        return Ranking(
            np.concatenate([first.ids, rest.ids]), np.concatenate([first.scores, rest.scores])
        )
