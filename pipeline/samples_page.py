"""Sample predictions as pages: what users viewed beside what is recommended to them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from jinja2 import Environment

from pipeline.samples import SamplePrediction

__all__ = ["samples_html", "samples_markdown"]

_HTML: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Sample predictions</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 60rem; margin: 1rem auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e2e8f0; }
th { color: #64748b; width: 50%; }
</style>
<h1>Sample predictions</h1>
{% for user, rows in users %}
<h2>User {{ user }}</h2>
<table>
<tr><th>viewed, newest first</th><th>recommended, best first</th></tr>
{% for viewed, recommended in rows %}
<tr><td>{{ viewed }}</td><td>{{ recommended }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</html>
"""

_MARKDOWN: Final = """\
# Sample predictions
{% for user, rows in users %}
## User {{ user | cell }}

| viewed, newest first | recommended, best first |
|---|---|
{% for viewed, recommended in rows %}
| {{ viewed | cell }} | {{ recommended | cell }} |
{% endfor %}
{% endfor %}
"""


def samples_html(samples: Sequence[SamplePrediction]) -> str:
    """Draw a page that needs nothing else; titles come from outside and are escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_HTML).render(users=_side_by_side(samples))


def samples_markdown(samples: Sequence[SamplePrediction]) -> str:
    """Write the same as Markdown tables."""
    # Not HTML: a title must not end a cell, which autoescape knows nothing of.
    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    environment.filters["cell"] = _cell
    return environment.from_string(_MARKDOWN).render(users=_side_by_side(samples))


def _side_by_side(
    samples: Sequence[SamplePrediction],
) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (
            sample.user,
            list(
                zip_longest(
                    (title or str(article) for article, title in sample.viewed),
                    (
                        f"{title or article} ({score:.2f})"
                        for article, title, score in sample.recommended
                    ),
                    fillvalue="",
                )
            ),
        )
        for sample in samples
    ]


def _cell(text: str) -> str:
    for each in "\\`*_[]<>|#":
        text = text.replace(each, f"\\{each}")
    return " ".join(text.split())
