"""Charts as inline SVG, small enough to read in the source."""

from typing import Final

from markupsafe import Markup, escape

from reporting.formatting import format_value
from reporting.sections import BarChart, LineChart, Series

__all__ = ["draw_bars", "draw_lines"]

_COLOURS: Final = (
    "#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#475569", "#0891b2", "#a16207",
)  # fmt: skip
_BAR_HEIGHT: Final = 26
_LABEL_WIDTH: Final = 190
_BAR_WIDTH: Final = 380
_WIDTH: Final = 640
_HEIGHT: Final = 260
_MARGIN: Final = 56


def draw_bars(chart: BarChart) -> Markup:
    """Draw horizontal bars with their values."""
    most = max(chart.values.values(), default=0) or 1
    bars = [
        _bar(row, label, value, value / most, chart.unit)
        for row, (label, value) in enumerate(chart.values.items())
    ]
    return _svg(_WIDTH, len(bars) * _BAR_HEIGHT + 8, Markup("").join(bars))


def _bar(row: int, label: str, value: float, share: float, unit: str) -> Markup:
    middle = row * _BAR_HEIGHT + 18
    width = max(1.0, share * _BAR_WIDTH)
    text = f"{format_value(value)} {unit}".strip()
    return Markup(
        '<text x="{}" y="{}" text-anchor="end">{}</text>'
        '<rect x="{}" y="{}" width="{:.1f}" height="18" rx="2" fill="{}"/>'
        '<text x="{:.1f}" y="{}">{}</text>'
    ).format(
        _LABEL_WIDTH - 8, middle, label,
        _LABEL_WIDTH, middle - 13, width, _COLOURS[0],
        _LABEL_WIDTH + width + 6, middle, text,
    )  # fmt: skip


def draw_lines(chart: LineChart) -> Markup:
    """Draw lines over a common scale, with a legend."""
    points = [point for series in chart.series for point in series.points]
    if not points:
        return Markup("<p>No points.</p>")
    x_range = _range([x for x, _ in points])
    y_range = _range([y for _, y in points])
    lines = [
        _line(series, colour, row, x_range, y_range)
        for row, (series, colour) in enumerate(zip(chart.series, _COLOURS, strict=False))
    ]
    body = _axes(chart, x_range, y_range) + Markup("").join(lines)
    return _svg(_WIDTH, _HEIGHT + 40, body)


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(value: float, scale: tuple[float, float], begin: float, end: float) -> float:
    return begin + (value - scale[0]) / (scale[1] - scale[0]) * (end - begin)


def _line(
    series: Series,
    colour: str,
    row: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> Markup:
    path = " ".join(
        f"{_place(x, x_range, _MARGIN, _WIDTH - 16):.1f},{_place(y, y_range, _HEIGHT - 24, 16):.1f}"
        for x, y in series.points
    )
    return Markup(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>'
        '<text x="{}" y="{}" fill="{}" text-anchor="end">{}</text>'
    ).format(path, colour, _WIDTH - 16, 14 + 16 * row, colour, series.name)


def _axes(chart: LineChart, x_range: tuple[float, float], y_range: tuple[float, float]) -> Markup:
    bottom = _HEIGHT - 24
    texts = (
        (_MARGIN, bottom + 18, "start", format_value(float(x_range[0]))),
        (_WIDTH - 16, bottom + 18, "end", format_value(float(x_range[1]))),
        (_WIDTH / 2, bottom + 36, "middle", chart.x_label),
        (_MARGIN - 6, bottom, "end", format_value(float(y_range[0]))),
        (_MARGIN - 6, 20, "end", format_value(float(y_range[1]))),
        (8, 8, "start", chart.y_label),
    )
    axis = Markup('<path d="M{} 12V{}H{}" fill="none" stroke="#94a3b8"/>').format(
        _MARGIN, bottom, _WIDTH - 16
    )
    labels = (
        Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(*text) for text in texts
    )
    return axis + Markup("").join(labels)


def _svg(width: int, height: int, body: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" width="{}" role="img">{}</svg>').format(
        width, height, width, escape(body)
    )
