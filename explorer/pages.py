"""HTML from what was found: the templates and the words they format with."""

from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from explorer.advice import advice, reason_in_words
from explorer.titles import Titles

__all__ = ["environment"]

_FIRST_TIME: Final = 1_000_000_000  # release ids are unix seconds; smaller ones are a test's


def environment(titles: Titles) -> Environment:
    """Make the templates' environment. Whatever comes from outside is escaped."""
    made = Environment(
        loader=PackageLoader("explorer"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["title"] = titles.of
    made.tests["titled"] = titles.has
    made.filters["ms"] = _milliseconds
    made.filters["when"] = _when
    made.filters["release_date"] = _release_date
    made.filters["reason"] = reason_in_words
    made.globals["advice"] = advice
    return made


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _when(milliseconds: int) -> str:
    """Show a time in ms since 1970; a view may be of any, also of one that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"


def _release_date(release: int) -> str:
    return _when(release * 1000) if release >= _FIRST_TIME else ""
