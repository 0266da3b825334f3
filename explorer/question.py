"""What the form asks, as it stands in the page's address."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from recsys.recommender.v1 import recommender_service_pb2 as pb2

from explorer.errors import FieldError

__all__ = ["DEFAULT_LIMIT", "Question", "parse_question", "request_of"]

DEFAULT_LIMIT: Final = 20
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Question:
    """Whom to answer, and how."""

    user_id: str
    limit: int = DEFAULT_LIMIT
    region_id: int | None = None
    exclude_viewed: bool = False
    recent: tuple[int, ...] = field(default=())
    """Replaces the stored history where not empty: article ids, newest first."""
    release: int | None = None
    """None: the one that the recommender has pinned."""
    compare: bool = False
    """Whether to ask a second release too."""
    other_release: int | None = None
    """The second release; None: the pinned one."""


def parse_question(fields: Mapping[str, str]) -> Question:
    """Read the fields of the form.

    Raises FieldError naming the first that is not of its form. What the recommender can judge is
    left to it: its message is what an engineer wants to see.
    """
    compare = fields.get("compare", "").strip()
    user_id = fields.get("user", "").strip()
    if not user_id:
        raise FieldError("user: whose candidates? Type a user id")
    return Question(
        user_id=user_id,
        limit=_limit(fields.get("limit", "")),
        region_id=_integer("region", fields.get("region", "")),
        exclude_viewed=fields.get("exclude_viewed") == "1",
        recent=_integers("recent", fields.get("recent", "")),
        release=_release("release", fields.get("release", "")),
        compare=bool(compare),
        other_release=_release("compare", compare),
    )


def request_of(question: Question, release: int | None) -> pb2.GetCandidatesRequest:
    """Put the question to one release; None: the pinned one."""
    return pb2.GetCandidatesRequest(
        user_id=question.user_id,
        limit=question.limit,
        region_id=question.region_id,
        exclude_viewed=question.exclude_viewed,
        recent_article_ids=question.recent,
        release=release,
    )


def _limit(text: str) -> int:
    limit = _integer("limit", text, _INT32_MAX)
    return DEFAULT_LIMIT if limit is None else limit


def _release(name: str, text: str) -> int | None:
    return None if text.strip() == "pinned" else _integer(name, text)


def _integers(name: str, text: str) -> tuple[int, ...]:
    found = (_integer(name, part) for part in text.replace(",", " ").split())
    return tuple(number for number in found if number is not None)


def _integer(name: str, text: str, at_most: int = _INT64_MAX) -> int | None:
    stripped = text.strip()
    if not stripped:
        return None
    digits = stripped.isascii() and stripped.isdigit() and len(stripped) <= len(str(at_most))
    if not digits or int(stripped) > at_most:
        raise FieldError(f"{name}: {stripped[:40]!r} is no whole number from 0 to {at_most}")
    return int(stripped)
