"""What a report shows below its figures: tables, bars and lines."""

from dataclasses import dataclass

__all__ = ["BarChart", "LineChart", "Section", "Series", "Table"]


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; numbers are aligned to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True)
class BarChart:
    """One horizontal bar for each label; values are 0 or more."""

    values: dict[str, float]
    unit: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one line, x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LineChart:
    """A few lines over one axis."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and what belongs below them."""

    title: str
    text: str = ""
    content: tuple[Table | BarChart | LineChart, ...] = ()
