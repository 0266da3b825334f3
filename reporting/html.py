"""The report as one HTML file that needs nothing else."""

from typing import Any, Final

from jinja2 import Environment, PackageLoader

from reporting.charts import draw_bars, draw_lines
from reporting.figures import Report
from reporting.formatting import format_value

__all__ = ["render_html"]

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters["value"] = format_value
_ENVIRONMENT.filters["kind"] = lambda content: type(content).__name__
_ENVIRONMENT.filters["bars"] = draw_bars
_ENVIRONMENT.filters["lines"] = draw_lines


def render_html(report: Report, document: dict[str, Any]) -> str:
    """Fill the template; `document` is what report.json holds."""
    return _ENVIRONMENT.get_template("report.html").render(report=report, document=document)
