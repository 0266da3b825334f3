"""Everything that the page shows for one question."""

from dataclasses import dataclass, replace

from explorer.comparison import Comparison, compare
from explorer.errors import CallFailedError
from explorer.question import Question
from explorer.recommender import Answer, Recommender, View

__all__ = ["Result", "ask"]


@dataclass(frozen=True, slots=True)
class Result:
    """The user's views and the answer of each release asked, or why there is none."""

    question: Question
    views: tuple[View, ...] | CallFailedError
    views_given: bool
    """The views are the form's own and not the stored ones."""
    answers: tuple[Answer | CallFailedError, ...]
    comparison: Comparison | None = None
    """Of the first answer with the second, where both are there."""

    @property
    def viewed(self) -> frozenset[int]:
        """The articles among the views."""
        if isinstance(self.views, CallFailedError):
            return frozenset()
        return frozenset(view.article_id for view in self.views)

    @property
    def failures(self) -> list[CallFailedError]:
        """The answers that failed."""
        return [answer for answer in self.answers if isinstance(answer, CallFailedError)]


async def ask(recommender: Recommender, question: Question) -> Result:
    """Ask for the views and for the candidates; whatever fails is part of the result.

    One call after another: side by side they would be in each other's times.
    """
    views = await _views(recommender, question)
    releases = [question.release, *([question.other_release] if question.compare else [])]
    answers = [await _candidates(recommender, question, release) for release in releases]
    result = Result(question, views, bool(question.recent), tuple(answers))
    match answers:
        case [Answer() as first, Answer() as second]:
            comparison = compare(first.article_ids, second.article_ids)
            axis_ms = max(first.waterfall.axis_ms, second.waterfall.axis_ms)
            return replace(
                result, answers=(_on_axis(first, axis_ms), _on_axis(second, axis_ms)),
                comparison=comparison,
            )  # fmt: skip
    return result


async def _views(
    recommender: Recommender, question: Question
) -> tuple[View, ...] | CallFailedError:
    if question.recent:
        return tuple(View(article_id, None) for article_id in question.recent)
    try:
        return await recommender.history(question.user_id)
    except CallFailedError as error:
        return error


async def _candidates(
    recommender: Recommender, question: Question, release: int | None
) -> Answer | CallFailedError:
    try:
        return await recommender.candidates(question, release)
    except CallFailedError as error:
        return error


def _on_axis(answer: Answer, axis_ms: float) -> Answer:
    return replace(answer, waterfall=answer.waterfall.on_axis(axis_ms))
