"""A published release measured by a published protocol, beside its baselines."""

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.baselines import PopularityBaseline, Successions, TransitionsBaseline
from pipeline.estimates import Estimate, at_cutoffs
from pipeline.metrics import ANSWERED, MISSED
from pipeline.protocols import Questions
from pipeline.ranking import Scorer, rank_all
from pipeline.served import ServedRelease
from pipeline.transform import Vocabulary

__all__ = ["CUTOFFS", "Judgement", "Segment", "judge"]

CUTOFFS: Final = (10, 20, 50, ANSWERED)
_HISTORY_LENGTHS: Final = (1, 2, 5, 10, 20, 50)
_HEAD: Final = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Segment:
    """Some of the questions, and how the release fares on them."""

    name: str
    count: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Judgement:
    """Every metric of the release, as served, and of what it must beat."""

    model: dict[str, Estimate]
    popularity: dict[str, Estimate]
    transitions: dict[str, Estimate]
    segments: tuple[Segment, ...]
    question_count: int
    user_count: int
    unknown_targets: int
    """Targets that the release's index does not hold: always misses."""
    seen_removed: bool
    within_learnt: int
    """Targets that are not newer than the newest view that the release learnt from, where its
    manifest does not say whether they were held out."""


def judge(release: ServedRelease, asked: Questions, *, remove_seen: bool) -> Judgement:
    """Ask model and index every question, and rank the same targets by the baselines.

    `remove_seen`: a user's views before the target are left out, by exclusion in the search.
    """
    excluded = [asked.viewed(q) for q in range(len(asked))] if remove_seen else []
    answers = release.answer(asked.histories, asked.regions, excluded, max(CUTOFFS))
    ranks = answers.ranks(asked.targets, MISSED)
    baselines = _Baselines(asked, remove_seen=remove_seen)
    popularity, transitions = baselines.ranks()
    learnt = release.manifest.data
    within_learnt = (asked.viewed_at <= learnt.last_event) & (learnt.held_out is None)
    return Judgement(
        model=at_cutoffs(ranks, asked.users, CUTOFFS),
        popularity=at_cutoffs(popularity, asked.users, CUTOFFS),
        transitions=at_cutoffs(transitions, asked.users, CUTOFFS),
        segments=(*_by_history(asked, ranks), *_by_popularity(asked, ranks, baselines.catalogue)),
        question_count=len(asked),
        user_count=len(np.unique(asked.users)),
        unknown_targets=int((~np.isin(asked.targets, release.exported.article_ids())).sum()),
        seen_removed=remove_seen,
        within_learnt=int(within_learnt.sum()),
    )


class _Baselines:
    """Popularity and first-order transitions, counted on all that may be learnt from."""

    def __init__(self, asked: Questions, *, remove_seen: bool) -> None:
        self._asked, self._remove_seen = asked, remove_seen
        ids, counts = np.unique(asked.article_ids[asked.learnt], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        self.catalogue = Vocabulary(ids[order], counts[order].astype(np.int64))
        self._indices = self.catalogue.indices(asked.article_ids)

    def ranks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rank every target by the one and by the other."""
        follows = self._asked.learnt[1:] & ~self._asked.first[1:]
        pairs, places = np.flatnonzero(follows), self._indices.astype(np.int64)
        successions = Successions(places[pairs], places[pairs + 1], len(self.catalogue.ids))
        newest = self._indices[self._asked.ends - 1].astype(np.int64)
        return (
            self._rank(PopularityBaseline(self.catalogue.counts)),
            self._rank(TransitionsBaseline(successions, self.catalogue.counts, newest)),
        )

    def _rank(self, scorer: Scorer) -> NDArray[np.int64]:
        columns = self.catalogue.indices(self._asked.targets).astype(np.int64) - 1
        everyone = np.arange(len(self._asked))
        size = len(self.catalogue.ids)
        return rank_all(scorer, everyone, columns, self._seen, size, with_answers=False).ranks

    def _seen(self, question: int) -> NDArray[np.int32]:
        begin, end = self._asked.begins[question], self._asked.ends[question]
        return self._indices[begin : end if self._remove_seen else begin]


def _by_history(asked: Questions, ranks: NDArray[np.int64]) -> list[Segment]:
    """Cut by the different articles in a history."""
    lengths, segments = (asked.histories >= 0).sum(axis=1), []
    for low, high in zip((1, *(n + 1 for n in _HISTORY_LENGTHS)), _HISTORY_LENGTHS, strict=False):
        name = f"history of {low}" if low == high else f"history of {low} to {high}"
        segments += _segment(name, asked, ranks, (lengths >= low) & (lengths <= high))
    return segments


def _by_popularity(
    asked: Questions, ranks: NDArray[np.int64], catalogue: Vocabulary
) -> list[Segment]:
    """Cut by how often a target was viewed, beside the other articles."""
    places, size = catalogue.indices(asked.targets), len(catalogue.ids)
    bounds = [0, *(max(1, round(share * size)) for share in _HEAD)]
    segments = []
    for low, high in itertools.pairwise(bounds):
        name = f"target among the {low + 1}. to {high}. most viewed"
        segments += _segment(name, asked, ranks, (places > low) & (places <= high))
    return [*segments, *_segment("target never viewed before", asked, ranks, places == 0)]


def _segment(
    name: str, asked: Questions, ranks: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> list[Segment]:
    if not chosen.any():
        return []
    metrics = at_cutoffs(ranks[chosen], asked.users[chosen], CUTOFFS)
    return [Segment(name, int(chosen.sum()), metrics)]
