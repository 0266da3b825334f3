"""The figures as a table on the terminal."""

from rich.console import Console
from rich.table import Table as RichTable

from reporting.figures import Figure, Report
from reporting.formatting import format_value

__all__ = ["print_report"]


def print_report(report: Report, console: Console | None = None) -> None:
    """Print every figure with its must and aim, and which of them is missed."""
    table = RichTable(title=report.target, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for heading in ("unit", "must", "aim", "holds"):
        table.add_column(heading)
    for figure in report.figures:
        table.add_row(
            figure.name,
            format_value(figure.value),
            figure.unit,
            figure.must or "",
            figure.aim or "",
            _verdict(figure),
        )
    (console or Console()).print(table)


def _verdict(figure: Figure) -> str:
    if figure.holds is None:
        return ""
    return "[green]yes[/green]" if figure.holds else "[bold red]no[/bold red]"
