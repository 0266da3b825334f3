import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.waterfall import BUDGET_MS, ELSEWHERE, Stage, parse_server_timing, waterfall

names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
milliseconds = st.floats(0, 5_000).map(lambda value: round(value, 3))
stage_lists = st.lists(st.builds(Stage, names, milliseconds), max_size=6)


def header_of(stages) -> str:
    """As the recommender writes it."""
    return ", ".join(f"{stage.name};dur={stage.milliseconds:.3f}" for stage in stages)


@given(stage_lists)
def test_what_the_recommender_writes_is_read_back(stages):
    assert parse_server_timing(header_of(stages)) == tuple(stages)


@given(st.text())
def test_no_header_is_an_error(header):
    for stage in parse_server_timing(header):
        assert stage.name
        assert stage.milliseconds >= 0


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("", ()),
        ("search;dur=2", (Stage("search", 2.0),)),
        (" search ; dur = 2.5 ,, nonsense, cache;desc=hit", (Stage("search", 2.5),)),
        ('search;dur=1;desc="slow"', (Stage("search", 1.0),)),
        ("search;dur=-1", ()),
    ],
)
def test_headers_of_other_forms(header, stages):
    assert parse_server_timing(header) == stages


@given(stage_lists, milliseconds)
def test_each_bar_begins_where_the_one_before_ends_and_all_make_the_round_trip(stages, round_trip):
    drawn = waterfall(stages, round_trip)
    end = 0.0
    for bar in drawn.bars:
        assert bar.start_ms == pytest.approx(end)
        assert bar.milliseconds >= 0
        end = bar.start_ms + bar.milliseconds
    assert end == pytest.approx(drawn.total_ms)
    assert drawn.total_ms >= round_trip
    assert [bar.name for bar in drawn.bars] == [*(stage.name for stage in stages), ELSEWHERE]


@given(stage_lists, milliseconds)
def test_the_axis_holds_every_bar_and_the_budget(stages, round_trip):
    drawn = waterfall(stages, round_trip)
    for ms in (drawn.total_ms, BUDGET_MS):
        assert 0 <= drawn.share(ms) <= 100


def test_what_no_stage_accounts_for_is_elsewhere():
    drawn = waterfall((Stage("history", 0.5), Stage("search", 1.5)), 3.0)
    assert [(bar.name, bar.start_ms, bar.milliseconds) for bar in drawn.bars] == [
        ("history", 0.0, 0.5),
        ("search", 0.5, 1.5),
        (ELSEWHERE, 2.0, 1.0),
    ]


def test_two_are_drawn_on_one_axis():
    quick, slow = waterfall((), 1.0), waterfall((), 30.0)
    assert quick.on_axis(slow.axis_ms).share(3.0) == slow.share(3.0)
