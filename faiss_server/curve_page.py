"""The recall-latency curve of an index as a page that needs nothing else."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from releases.manifest import CurvePoint, IndexInfo

__all__ = ["curve_page"]

_WIDTH: Final = 680
_HEIGHT: Final = 320
_MARGIN: Final = 60
_COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#db2777")
_RING: Final = 'r="6" fill="none" stroke="#b91c1c" stroke-width="2"'
_DOT: Final = 'r="2"'
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1e293b; }}
body {{ max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: right; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e2e8f0; }}
th {{ color: #64748b; }} .chosen td {{ font-weight: 700; }}
svg {{ font: 12px system-ui, sans-serif; fill: #1e293b; max-width: 100%; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{plot}
<p>Recall@200 against exact search over p50 of one query at a time in one thread, ms (logarithmic),
on held-out queries. The ring is what was chosen.</p>
<table>
<tr><th>nprobe</th><th>refine factor</th><th>recall@200</th><th>p50 ms</th><th>p99 ms</th></tr>
{rows}
</table>
</html>
"""


def curve_page(info: IndexInfo) -> str:
    """Draw the curve and list its points."""
    return _PAGE.format(
        title=escape(info.type),
        summary=escape(
            f"{info.nprobe} of {info.lists} lists are probed"
            + (f", {info.refine_factor:g} times k are refined" if info.refine_factor > 1 else "")
            + f"; recall@200 {info.recall_at_200:.4f}."
        ),
        plot=_plot(info),
        rows="\n".join(_row(point, info) for point in info.curve),
    )


def _row(point: CurvePoint, info: IndexInfo) -> str:
    chosen = ' class="chosen"' if _is_chosen(point, info) else ""
    cells = (
        f"{point.nprobe}", f"{point.refine_factor:g}", f"{point.recall_at_200:.4f}",
        f"{point.p50_ms:.3f}", f"{point.p99_ms:.3f}",
    )  # fmt: skip
    return f"<tr{chosen}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _is_chosen(point: CurvePoint, info: IndexInfo) -> bool:
    return (point.nprobe, point.refine_factor) == (info.nprobe, info.refine_factor)


def _plot(info: IndexInfo) -> str:
    if not info.curve:
        return "<p>No curve was measured.</p>"
    scale = _Scale(info.curve)
    parts = [scale.axes()]
    factors = sorted({point.refine_factor for point in info.curve})
    for number, factor in enumerate(factors):
        colour = _COLOURS[number % len(_COLOURS)]
        line = sorted(scale.place(each) for each in info.curve if each.refine_factor == factor)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        if len(factors) > 1:
            parts.append(
                f'<text x="{_WIDTH - 20}" y="{_HEIGHT - 70 + 16 * number}" text-anchor="end" '
                f'fill="{colour}">refined {factor:g} times</text>'
            )
    for point in info.curve:
        x, y = scale.place(point)
        kind = _RING if _is_chosen(point, info) else _DOT
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" {kind}>'
            f"<title>nprobe {point.nprobe}</title></circle>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}">' + "".join(parts) + "</svg>"


class _Scale:
    """Where a point is drawn: time by its logarithm, recall as it is."""

    def __init__(self, points: Sequence[CurvePoint]) -> None:
        times = [math.log10(max(point.p50_ms, 1e-4)) for point in points]
        self._left, self._right = min(times), max(times)
        self._bottom = min(point.recall_at_200 for point in points)

    def place(self, point: CurvePoint) -> tuple[float, float]:
        time = math.log10(max(point.p50_ms, 1e-4))
        across = (time - self._left) / ((self._right - self._left) or 1)
        up = (point.recall_at_200 - self._bottom) / ((1 - self._bottom) or 1)
        return (
            _MARGIN + across * (_WIDTH - 2 * _MARGIN),
            _HEIGHT - _MARGIN / 2 - up * (_HEIGHT - _MARGIN),
        )

    def axes(self) -> str:
        bottom = _HEIGHT - _MARGIN / 2
        return (
            f'<path d="M{_MARGIN} 20V{bottom}H{_WIDTH - 20}" fill="none" stroke="#94a3b8"/>'
            f'<text x="{_MARGIN}" y="{bottom + 18}">{10**self._left:.3g} ms</text>'
            f'<text x="{_WIDTH - 20}" y="{bottom + 18}" text-anchor="end">'
            f"{10**self._right:.3g} ms</text>"
            f'<text x="{_MARGIN - 6}" y="{bottom}" text-anchor="end">{self._bottom:.3f}</text>'
            f'<text x="{_MARGIN - 6}" y="34" text-anchor="end">1</text>'
        )
