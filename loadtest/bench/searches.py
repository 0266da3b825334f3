"""What `make bench-index` measures: single queries in process, against exact search."""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.attributes import AttributeFilter
from faiss_server.exact import exact_top_k
from faiss_server.search import SearchQuery
from loadtest.bench.indexes import BenchIndex, Catalogued, K, exact_ids

__all__ = [
    "Exclusions",
    "Filtered",
    "Times",
    "fewest_lists",
    "measure_exclusions",
    "measure_filters",
    "times_of",
]

Ask = Callable[[int], object]
"""Asks as the user of this number."""

NONE: Final = "no exclusions"
BARE: Final = "bare faiss call"
_OTHER_USERS: Final = 17
"""Those who ask in turn are so many apart: each finds what it reads as cold as the others do."""

FILTERS: Final = {
    "50 %": ("half", 1),
    "5 %": ("twentieth", 1),
    "0.5 %": ("rare", 1),
    "0.01 %": ("rarest", 1),
    "half of all places": ("place", 10),
    "one place of 20": ("place", 1),
}
"""Attribute, and how many of its values are asked for; places lie beside each other."""
DRAWN: Final = tuple(list(FILTERS)[:4])
"""Filters whose articles are drawn at random."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of each query by what was asked, in rounds that took turns."""

    by_name: Mapping[str, Sequence[NDArray[np.float64]]]

    def percentile(self, name: str, percent: float) -> float:
        """Answer the median over the rounds."""
        return median(float(np.percentile(each, percent)) for each in self.by_name[name])

    def ratio(self, name: str, other: str) -> float:
        """Answer the median of the rounds' ratios of p50."""
        rounds = zip(self.by_name[name], self.by_name[other], strict=True)
        return median(float(np.median(one) / np.median(two)) for one, two in rounds)


@dataclass(frozen=True)
class Exclusions:
    """Times, and how many of the exact answers were found."""

    times: Times
    recalls: Mapping[str, float]
    exact_differences: int
    """Ids of searches of all lists that exact search with the same exclusions does not name."""


@dataclass(frozen=True)
class Filtered:
    """One filter: the share of articles that match, times, recall, and the fewest answered."""

    matching: float
    milliseconds: NDArray[np.float64]
    recall: float
    all_there: bool


def times_of(asks: Mapping[str, Ask], users: int, rounds: int) -> Times:
    """Time each query of each kind, one after another."""
    by_name: dict[str, list[NDArray[np.float64]]] = {name: [] for name in asks}
    for _ in range(rounds):
        taken = {name: np.empty(users) for name in asks}
        for user in range(users):
            for turn, (name, ask) in enumerate(asks.items()):
                started = time.perf_counter()
                ask((user + turn * _OTHER_USERS) % users)
                taken[name][user] = (time.perf_counter() - started) * 1000
        for name, milliseconds in taken.items():
            by_name[name].append(milliseconds)
    return Times(by_name)


def fewest_lists(bench: BenchIndex, catalogue: Catalogued, recall: float) -> tuple[int, float]:
    """Answer the fewest lists that give those who ask so much, and what they give.

    A release has more: enough also with 50 exclusions, and with two standard errors to spare.
    """
    exact = exact_ids(catalogue, catalogue.asking)

    @cache
    def given(nprobe: int) -> float:
        asked = zip(catalogue.asking, exact, strict=True)
        return float(
            np.mean([np.isin(ids, bench.ask(user, (), nprobe)).mean() for user, ids in asked])
        )

    most = bench.info.nprobe
    nprobe = bisect_left(range(1, most), recall, key=given) + 1
    return nprobe, given(nprobe)


def measure_exclusions(
    bench: BenchIndex, catalogue: Catalogued, counts: Sequence[int], rounds: int
) -> Exclusions:
    """Leave out so many of each user's nearest articles, every second one: as those do who were
    shown them.
    """
    users = catalogue.asking
    nearest = catalogue.article_ids[
        exact_top_k(catalogue.vectors, users, min(2 * max(counts) + K, len(bench.index)))
    ]
    excluded = {f"{count} excluded": nearest[:, : 2 * count : 2] for count in counts}

    def ask(name: str, user: int, nprobe: int | None = None) -> NDArray[np.int64]:
        ids = [excluded[name][user]] if name in excluded else []
        return bench.ask(users[user], ids, nprobe)

    asks: dict[str, Ask] = {name: partial(ask, name) for name in (NONE, *excluded)}
    asks[BARE] = lambda user: bench.ask_bare(users[user])
    times = times_of(asks, len(users), rounds)
    recalls, differences = {}, 0
    for name in (NONE, *excluded):
        shares = []
        for user in range(len(users)):
            left = nearest[user]
            if name in excluded:
                left = left[~np.isin(left, excluded[name][user])]
            shares.append(np.isin(left[:K], ask(name, user)).mean())
            if user % 16 == 0:
                everywhere = ask(name, user, bench.index.lists)
                differences += int((~np.isin(left[:K], everywhere)).sum())
        recalls[name] = float(np.mean(shares))
    return Exclusions(times, recalls, differences)


def measure_filters(bench: BenchIndex, catalogue: Catalogued, users: int) -> dict[str, Filtered]:
    """Ask with each filter as so many users."""
    asking = catalogue.asking[:users]
    found = {}
    for name, (attribute, values) in FILTERS.items():
        wanted = frozenset(range(values))
        filters = frozenset({AttributeFilter(attribute, wanted, negated=False)})
        kept = np.isin(bench.attributes[attribute], list(wanted))
        exact = exact_ids(catalogue, asking, kept)
        milliseconds, shares, all_there = np.empty(len(asking)), [], True
        # The first search with a filter finds out which articles match; callers use few filters.
        bench.searcher.search(SearchQuery(asking[:1], K, filters=filters))
        for user in range(len(asking)):
            query = SearchQuery(asking[user : user + 1], K, filters=filters)
            started = time.perf_counter()
            result = bench.searcher.search(query)
            milliseconds[user] = (time.perf_counter() - started) * 1000
            shares.append(np.isin(exact[user], result.article_ids).mean())
            all_there &= result.article_ids.size == exact.shape[1]
        found[name] = Filtered(float(kept.mean()), milliseconds, float(np.mean(shares)), all_there)
    return found
