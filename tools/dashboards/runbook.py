"""The runbook as a dashboard: panels of the others lead to the text of their alert."""

import re
from functools import cache
from pathlib import Path

from grafana_foundation_sdk.builders import text as text_panel
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.text import TextMode

__all__ = ["PAGE", "UID", "address", "dashboard", "sections"]

PAGE = "docs/operations.md"
UID = "recsys-runbook"
_ROOT = Path(__file__).resolve().parent.parent.parent


@cache
def sections() -> dict[str, str]:
    """Answer the runbook's text for each alert, in its order."""
    page = (_ROOT / PAGE).read_text()
    chapter = re.search(r"^## Alerts\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    if chapter is None:
        raise ValueError(f"{PAGE} has no chapter Alerts")
    parts = re.split(r"^### (\w+)\n", chapter[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def address(alert: str) -> str:
    """Answer where Grafana shows what to do about an alert.

    Raises ValueError for one that the runbook does not have.
    """
    return f"/d/{UID}?viewPanel={list(sections()).index(alert) + 1}"


def dashboard() -> Dashboard:
    """Lay the runbook out, one panel for each alert."""
    board = Dashboard("Runbook").uid(UID).tags(["recsys"]).readonly()
    board.description(f"What to do when an alert calls: the alerts of {PAGE}.")
    for number, (alert, content) in enumerate(sections().items(), start=1):
        panel = text_panel.Panel().id(number).title(alert).content(content).mode(TextMode.MARKDOWN)
        board.with_panel(panel.span(12).height(6))
    return board
