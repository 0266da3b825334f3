"""The most viewed articles of a release, overall and by region."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PopularList", "PopularLists", "popular_lists"]

_OVERALL: Final = -1

PopularLists = Mapping[int | None, "PopularList"]
"""By region; None: overall, which is the first."""

AttributesOf = Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class PopularList:
    """Articles of one region, most viewed first; all arrays have the same length."""

    region_id: int | None
    article_ids: NDArray[np.int64]
    views: NDArray[np.float32]
    attributes: Mapping[str, NDArray[np.int64]]

    def without(self, ascending: NDArray[np.int64]) -> "PopularList":
        """Answer the list without these, int64[n], which may be many more than it has."""
        if not ascending.size:
            return self
        places = ascending.searchsorted(self.article_ids)
        kept = ascending.take(places, mode="clip") != self.article_ids
        columns = {name: column[kept] for name, column in self.attributes.items()}
        return PopularList(self.region_id, self.article_ids[kept], self.views[kept], columns)


def popular_lists(
    region_ids: NDArray[np.int64],
    article_ids: NDArray[np.int64],
    views: NDArray[np.int64] | NDArray[np.float64],
    attributes_of: AttributesOf,
) -> PopularLists:
    """Split the parallel arrays of `popular.npz` into lists.

    Raises ValueError where they are not as `releases.layout` says.
    """
    if not region_ids.size or region_ids[0] != _OVERALL:
        raise ValueError("the overall list, region -1, does not come first")
    if not np.isfinite(views).all():
        raise ValueError("a number of views is not finite")
    if region_ids.min() < _OVERALL or article_ids.min() < 0 or views.min() < 0:
        raise ValueError("a region id, article id or number of views is negative")
    lists: dict[int | None, PopularList] = {}
    for rows in _runs(region_ids):
        region = int(region_ids[rows.start])
        key = None if region == _OVERALL else region
        if key in lists:
            raise ValueError(f"the rows of region {region} are not together")
        _check_list(region, article_ids[rows], views[rows])
        lists[key] = PopularList(
            key, article_ids[rows], views[rows].astype(np.float32), attributes_of(article_ids[rows])
        )
    return lists


def _runs(values: NDArray[np.int64]) -> Iterator[slice]:
    borders = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), values.size]
    return (slice(*border) for border in pairwise(borders))


def _check_list(region: int, article_ids: NDArray[np.int64], views: NDArray[Any]) -> None:
    if np.unique(article_ids).size != article_ids.size:
        raise ValueError(f"region {region} lists an article twice")
    if (views[1:] > views[:-1]).any():
        raise ValueError(f"region {region} is not ordered by views")
