"""What articles are called."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from explorer.errors import StartupError

__all__ = ["Titles", "read_titles"]


@dataclass(frozen=True)
class Titles:
    """Titles by article id; articles without one go by their number."""

    by_id: Mapping[int, str] = field(default_factory=dict)

    def has(self, article_id: int) -> bool:
        """Answer whether an article has a title."""
        return bool(self.by_id.get(article_id))

    def of(self, article_id: int) -> str:
        """Answer what to show for an article."""
        return self.by_id.get(article_id) or f"article {article_id}"


def read_titles(path: Path | None) -> Titles:
    """Read a CSV with the columns item_id and title.

    Raises StartupError, naming EXPLORER_ITEMS, when it cannot be read or has other columns.
    """
    if path is None:
        return Titles()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return Titles({int(row["item_id"]): row["title"] or "" for row in csv.DictReader(file)})
    except OSError as error:
        raise StartupError(f"EXPLORER_ITEMS: {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise StartupError(f"EXPLORER_ITEMS: {path} is no CSV of item_id,title: {error}") from error
