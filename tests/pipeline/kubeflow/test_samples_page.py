"""Titles come from outside: they may hold whatever HTML and Markdown give a meaning to."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from pipeline.samples import SamplePrediction
from pipeline.samples_page import samples_html, samples_markdown

SAMPLE = SamplePrediction(
    "user <7>",
    viewed=((1, "A <b>bike</b>"), (2, "")),
    recommended=((3, "A | pipe", 0.25), (4, "Fish & chips", 0.125), (5, "", 0.5)),
)


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.texts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "td":
            self.texts[-1] += data


def test_viewed_and_recommended_stand_side_by_side():
    page = Cells()
    page.feed(samples_html([SAMPLE]))
    texts = [text.strip() for text in page.texts]
    assert texts == [
        "A <b>bike</b>", "A | pipe (0.25)", "2", "Fish & chips (0.12)", "", "5 (0.50)",
    ]  # fmt: skip


def test_the_same_as_markdown():
    lines = samples_markdown([SAMPLE]).splitlines()
    assert "## User user \\<7\\>" in lines
    assert "| A \\<b\\>bike\\</b\\> | A \\| pipe (0.25) |" in lines
    assert "|  | 5 (0.50) |" in lines


@given(st.text())
def test_no_title_ends_its_cell(title):
    sample = SamplePrediction("u", ((1, title),), ((2, title, 0.0),))
    page = Cells()
    page.feed(samples_html([sample]))
    assert page.tags.count("td") == 2
    assert "b" not in page.tags
    rows = [line for line in samples_markdown([sample]).split("\n") if line.startswith("|")]
    assert len(rows) == 3
