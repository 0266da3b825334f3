"""Recomputes sampled answers from the release that each of them names."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.chaos.results import Result
from tests.chaos.rotated import LIMIT, Catalogue, popular_ids

__all__ = ["AnswerCheck", "Verdict"]

_LEAST_OVERLAP = 0.9  # with exact search; the index is approximate
_SCORE_TOLERANCE = 2e-3  # relative; other releases' scores differ by half a percent and more
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """How many answers were recomputed, and what is wrong with the first few wrong ones."""

    checked: int
    wrong: int
    examples: tuple[str, ...]


class AnswerCheck:
    """Knows the right answer of every release; `published` are those that may be answered from."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._place = {int(one): row for row, one in enumerate(catalogue.article_ids)}
        self._articles: dict[int, NDArray[np.float32]] = {}
        self._users: dict[int, NDArray[np.float32]] = {}

    def verdict(self, results: Iterable[Result], allowed: Iterable[int]) -> Verdict:
        """Recompute all answers that were kept whole; none may name a release not `allowed`."""
        may, checked, wrong = set(allowed), 0, []
        for result in results:
            if result.article_ids is None:
                continue
            checked += 1
            objection = (
                self.objection(result) if result.release in may else "a release not in service"
            )
            if objection is not None:
                wrong.append(f"user {result.user}, release {result.release}: {objection}")
        return Verdict(checked, len(wrong), tuple(wrong[:_MOST_SHOWN]))

    def objection(self, result: Result) -> str | None:
        """Say what is wrong with an answer, None where it is right."""
        given = np.array(result.article_ids, np.int64)
        if len(given) != LIMIT or len(set(given.tolist())) != LIMIT:
            return f"{len(set(given.tolist()))} distinct articles instead of {LIMIT}"
        if unknown := set(given.tolist()) - self._place.keys():
            return f"articles {sorted(unknown)[:3]} do not exist"
        if result.source == "POPULAR":
            return self._wrong_popular(result, given)
        return self._wrong_personal(result, given)

    def exact(self, release: int, user: int, index: int | None = None) -> NDArray[np.int64]:
        """Answer the right articles; with `index`, those of a mix: `release`'s user vector in the
        index of another.
        """
        scores = self._vectors(index or release) @ self._user_vectors(release)[user]
        scores[np.isin(self._catalogue.article_ids, self._catalogue.history(user))] = -np.inf
        return self._catalogue.article_ids[np.argsort(-scores)[:LIMIT]]

    def _wrong_popular(self, result: Result, given: NDArray[np.int64]) -> str | None:
        popular = popular_ids(result.release, self._catalogue.article_ids)
        if result.reason != "HISTORY_UNAVAILABLE":
            popular = popular[~np.isin(popular, self._catalogue.history(result.user))]
        return None if (popular[:LIMIT] == given).all() else "not the release's popular articles"

    def _wrong_personal(self, result: Result, given: NDArray[np.int64]) -> str | None:
        if np.isin(given, self._catalogue.history(result.user)).any():
            return "articles already viewed"
        overlap = np.isin(self.exact(result.release, result.user), given).mean()
        if overlap < _LEAST_OVERLAP:
            return f"{overlap:.0%} of the right articles"
        rows = [self._place[one] for one in given.tolist()]
        right = (
            self._vectors(result.release)[rows] @ self._user_vectors(result.release)[result.user]
        )
        off = np.abs(np.array(result.scores) - right).max() / np.abs(right).max()
        return None if off < _SCORE_TOLERANCE else f"scores off by {off:.1%}: of another release"

    def _vectors(self, release: int) -> NDArray[np.float32]:
        if release not in self._articles:
            self._articles[release] = self._catalogue.articles_in(release)
        return self._articles[release]

    def _user_vectors(self, release: int) -> NDArray[np.float32]:
        if release not in self._users:
            self._users[release] = self._catalogue.users_in(release)
        return self._users[release]
