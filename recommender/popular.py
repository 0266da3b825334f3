"""Popular articles of one release, held in memory: the answer that needs nobody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from recommender.domain import AttributeFilter, Float32s, Int64s, Ranking
from service_runtime.errors import InvalidRequestError

__all__ = ["AllowedPopular", "PopularArticles", "PopularList"]

_KEPT_RELEASES: Final = 2
_HEAD: Final = 8_192


@dataclass(frozen=True)
class PopularList:
    """Articles most viewed first, int64[n] and float32[n], and int64[n] of each attribute."""

    ids: Int64s
    views: Float32s
    attributes: Mapping[str, Int64s]

    def without(self, ascending: Int64s) -> "PopularList":
        """Answer the list without these articles, which may be many more than it has."""
        if ascending.size >= self.ids.size:
            places = ascending.searchsorted(self.ids)
            kept = ascending.take(places, mode="clip") != self.ids
        else:  # a long list takes tens of milliseconds to look up, and a few ids take none
            order, ids = self._by_id
            places = ids.searchsorted(ascending)
            kept = np.ones(ids.size, bool)
            kept[order[places[ids.take(places, mode="clip") == ascending]]] = False
        columns = {name: column[kept] for name, column in self.attributes.items()}
        return PopularList(self.ids[kept], self.views[kept], columns)

    @cached_property
    def _by_id(self) -> tuple[Int64s, Int64s]:
        """Places by ascending id, and the ids in that order."""
        order = np.argsort(self.ids)
        return order, self.ids[order]

    def ranking(self, limit: int, excluded: Int64s, filters: Sequence[AttributeFilter]) -> Ranking:
        """Answer the first `limit` that pass; the head of a long list mostly has as many."""
        places = self._passing(0, min(_HEAD, self.ids.size), excluded, filters)
        if places.size < limit and self.ids.size > _HEAD:
            rest = self._passing(_HEAD, self.ids.size, excluded, filters)
            places = np.concatenate([places, rest])
        places = places[:limit]
        return Ranking(self.ids[places], self.views[places])

    def _passing(
        self, begin: int, end: int, excluded: Int64s, filters: Sequence[AttributeFilter]
    ) -> Int64s:
        ids = self.ids[begin:end]
        keep = np.ones(ids.size, bool)
        for condition in filters:
            column = self.attributes[condition.attribute][begin:end]
            keep &= np.isin(column, np.array(condition.values), invert=condition.negated)
        places = np.flatnonzero(keep)
        if excluded.size:
            places = places[~np.isin(ids[places], excluded)]
        return begin + places


class PopularArticles:
    """The overall list, and one for each region that has views."""

    def __init__(self, overall: PopularList, by_region: Mapping[int, PopularList]) -> None:
        self._overall = overall
        self._by_region = by_region

    @property
    def attributes(self) -> frozenset[str]:
        """Name the attributes that articles of this release have."""
        return frozenset(self._overall.attributes)

    def without(self, taken_down: Int64s) -> "PopularArticles":
        """Answer the lists without these articles, int64[n], ascending."""
        if not taken_down.size:
            return self
        regional = {region: each.without(taken_down) for region, each in self._by_region.items()}
        return PopularArticles(self._overall.without(taken_down), regional)

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


class AllowedPopular:
    """The popular articles of each release without what is taken down, until either changes."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[PopularArticles, Int64s, PopularArticles]] = {}

    def of(self, release: int, popular: PopularArticles, taken_down: Int64s) -> PopularArticles:
        """Answer the lists without `taken_down`, which is the same array while it is the same."""
        made = self._made.get(release)
        if made is None or made[0] is not popular or made[1] is not taken_down:
            newest = sorted(self._made)[-_KEPT_RELEASES:]
            self._made = {each: self._made[each] for each in newest}
            made = self._made[release] = (popular, taken_down, popular.without(taken_down))
        return made[2]
