"""report.json for machines and report.html for people."""

import json
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reporting.figures import Report
from reporting.html import render_html
from reporting.machine import describe_machine

__all__ = ["write_report"]


def write_report(report: Report, directory: Path) -> None:
    """Write report.json and a self-contained report.html into `directory`.

    Raises ValueError for details that would hide a field of the format.
    """
    document: dict[str, Any] = {
        "target": report.target,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "figures": [asdict(figure) for figure in report.figures],
    }
    if hidden := document.keys() & report.details.keys():
        raise ValueError(f"details may not be called {', '.join(sorted(hidden))}")
    document |= report.details
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    html = render_html(report, document)
    (directory / "report.html").write_text(html, encoding="utf-8")


def _commit() -> str | None:
    """Name the commit of the checkout that this runs from; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return answer.stdout.strip() or None
