"""A mixed pair is visible, and the checks see whatever is wrong with an answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.results import Down, Result, SplitWindow, compare_releases, first_full_second
from tests.chaos.rotated import FIRST_RELEASE, Catalogue, popular_ids, prepare_releases
from tests.chaos.verify import AnswerCheck

pytestmark = pytest.mark.timeout(300)

NEW, OLD = FIRST_RELEASE + 2, FIRST_RELEASE + 1


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return prepare_releases(Path("build/cache"), [(OLD, "sound"), (NEW, "sound")]).catalogue


@pytest.fixture(scope="module")
def check(catalogue) -> AnswerCheck:
    return AnswerCheck(catalogue)


def answer(check, release: int, user: int, articles=None, named: int | None = None) -> Result:
    """Make the right answer of a release to a user, or one of these articles with its scores."""
    ids = check.exact(release, user) if articles is None else articles
    rows = [check._place[int(one)] for one in ids]
    scores = check._vectors(release)[rows] @ check._user_vectors(release)[user]
    return Result(
        0, 0, 0, 0, "OK", user, source="PERSONALIZED", reason="UNSPECIFIED",
        release=named or release, article_ids=ids.tolist(), scores=scores.tolist(),
    )  # fmt: skip


def test_a_user_vector_in_the_index_of_another_release_shares_less_than_a_tenth(check):
    overlaps = [
        np.isin(check.exact(NEW, user), check.exact(NEW, user, index=OLD)).mean()
        for user in range(500)
    ]
    assert np.mean(overlaps) < 0.1


def test_right_answers_pass(check, catalogue):
    for release in (OLD, NEW):
        assert check.objection(answer(check, release, user=3)) is None
    popular = popular_ids(NEW, catalogue.article_ids)
    popular = popular[~np.isin(popular, catalogue.history(3))][:50]
    given = replace(answer(check, NEW, 3, popular), source="POPULAR", reason="NO_COMMON_RELEASE")
    assert check.objection(given) is None


def test_a_mixed_answer_is_seen(check):
    mixed = check.exact(NEW, 3, index=OLD)
    assert "right articles" in check.objection(answer(check, NEW, 3, mixed))


def test_an_answer_that_names_another_release_is_seen_by_its_scores(check):
    assert "of another release" in check.objection(answer(check, OLD, 3, named=NEW))


def test_popular_articles_of_another_release_are_seen(check, catalogue):
    popular = popular_ids(OLD, catalogue.article_ids)
    popular = popular[~np.isin(popular, catalogue.history(3))][:50]
    given = replace(
        answer(check, OLD, 3, popular), release=NEW, source="POPULAR", reason="NO_COMMON_RELEASE"
    )
    assert check.objection(given) == "not the release's popular articles"


def test_viewed_and_short_answers_are_seen(check, catalogue):
    right = check.exact(NEW, 3)
    viewed = np.concatenate([catalogue.history(3)[:1], right[:-1]])
    assert check.objection(answer(check, NEW, 3, viewed)) == "articles already viewed"
    assert "49 distinct" in check.objection(answer(check, NEW, 3, right[:-1]))


def test_a_release_that_is_not_in_service_is_wrong_whatever_it_answers(check):
    verdict = check.verdict([answer(check, NEW, 3)], allowed=[OLD])
    assert (verdict.checked, verdict.wrong) == (1, 1)


def test_the_releases_of_a_split_are_compared_by_what_each_answered():
    window = SplitWindow(release=2, share=0.1, begin=10.0, end=20.0)
    done = SplitWindow(release=2, share=1.0, begin=30.0, end=40.0)
    answers = [
        Result(due, due, due + 0.01 * release, 0, "OK", user, source, "", release)
        for due, user, release, source in (
            (9.0, 1, 1, "PERSONALIZED"), (11.0, 1, 1, "PERSONALIZED"), (12.0, 1, 1, "POPULAR"),
            (13.0, 2, 2, "PERSONALIZED"), (19.0, 3, 2, "PERSONALIZED"), (35.0, 1, 2, "POPULAR"),
        )
    ]  # fmt: skip
    older, newer = compare_releases(answers, [window, done])
    assert (older.release, older.users, older.requests) == (1, 1, 2)
    assert older.sources == {"PERSONALIZED": 1, "POPULAR": 1}
    assert (newer.release, newer.users, newer.sources) == (2, 2, {"PERSONALIZED": 2})
    assert (older.p50_ms, newer.p99_ms) == (10.0, 20.0)


def test_full_service_returns_with_the_first_full_second():
    personalized = Result(0, 0, 0, 0, "OK", 0, source="PERSONALIZED")
    late = Result(0, 0, 0, 0, "DEADLINE_EXCEEDED", 0)
    results = [
        replace(late if 1.0 <= moment < 1.5 else personalized, due=moment)
        for moment in np.arange(0, 5, 0.1).tolist()
    ]
    assert first_full_second(results, 1.0) == pytest.approx(0.4)
    assert first_full_second(results, 2.0) == 0.0
    assert first_full_second([late], 0.0) is None


def test_only_failures_in_the_hands_of_a_dying_recommender_are_told_apart():
    down = Down(target=0, begin=10.0, end=12.0)
    failed = Result(9.99, 9.99, 10.04, 0, "UNAVAILABLE", 1)
    assert down.was_handed(failed)
    assert not down.was_handed(replace(failed, target=1))
    assert not down.was_handed(replace(failed, code="OK"))
    assert not down.was_handed(replace(failed, sent=9.9, finished=9.95))
    assert not down.was_handed(replace(failed, sent=12.1, finished=12.2))
