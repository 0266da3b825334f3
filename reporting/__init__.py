"""One format for every measurement: report.json, report.html and a table on the terminal."""

from reporting.figures import Figure, Report, Value
from reporting.sections import BarChart, LineChart, Section, Series, Table
from reporting.terminal import print_report
from reporting.writing import write_report

__all__ = [
    "BarChart",
    "Figure",
    "LineChart",
    "Report",
    "Section",
    "Series",
    "Table",
    "Value",
    "print_report",
    "write_report",
]
