"""Vocabulary, held-out targets and windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.collect import collect
from pipeline.errors import TooLittleDataError
from pipeline.examples import split_examples
from pipeline.options import PreprocessOptions
from pipeline.preprocess import preprocess
from pipeline.windows import find_repeats, history_windows

ROWS = [
    ("ann", 5, 1, 70),
    ("ann", 9, 2, 71),
    ("ann", 5, 3, 70),
    ("ann", 3, 4, 71),
    ("ann", 8, 9, 71),
    ("bob", 9, 1, ""),
    ("bob", 3, 2, ""),
    ("bob", 5, 3, ""),
    ("cat", 7, 1, 70),
]


def latest_views(views):
    """The different articles of these views (oldest first) as a history holds them."""
    return list(dict.fromkeys(views[::-1].tolist()))[:50]


@pytest.fixture
def prepare(tmp_path):
    def run(rows, least=2):
        events = tmp_path / "events.csv"
        lines = [",".join(map(str, row)) for row in rows]
        events.write_text("\n".join(["user_id,item_id,timestamp,region_id", *lines]))
        collected = collect(events, None, tmp_path)
        return preprocess(collected, PreprocessOptions(min_article_views=least), tmp_path)

    return run


def test_the_vocabulary_is_in_descending_frequency_and_smaller_ids_come_first(prepare):
    prepared = prepare(ROWS)
    arrays = prepared.load()
    assert arrays.vocabulary.tolist() == [3, 5, 9]  # 7 and 8 are rare
    assert arrays.article_views.tolist() == [2, 2, 2]
    assert arrays.region_vocabulary.tolist() == [70, 71]
    assert prepare(ROWS, least=1).load().vocabulary.tolist() == [3, 5, 9, 7]
    assert prepare(ROWS[::-1]).load().vocabulary.tolist() == [3, 5, 9]


def test_the_last_view_of_each_user_is_the_target_and_in_no_count(prepare):
    arrays = prepare(ROWS, least=1).load()
    assert arrays.targets.tolist() == [8, 5, -1]
    assert arrays.target_regions.tolist() == [71, -1, -1]
    assert 8 not in arrays.vocabulary
    assert arrays.offsets.tolist() == [0, 4, 6, 7]
    assert arrays.article_ids.tolist() == [5, 9, 5, 3, 9, 3, 7]
    assert arrays.articles.tolist() == [2, 3, 2, 1, 3, 1, 4]
    assert arrays.regions.tolist() == [1, 2, 1, 2, 0, 0, 1]


def test_rare_articles_stay_as_raw_ids_and_become_index_0(prepare):
    arrays = prepare([*ROWS, ("bob", 1, 0, "")]).load()
    assert arrays.article_ids.tolist() == [5, 9, 5, 3, 1, 9, 3, 7]
    assert arrays.articles.tolist() == [2, 3, 2, 1, 0, 3, 1, 0]


def test_histories_are_newest_first_with_and_without_the_target(prepare):
    arrays = prepare(ROWS).load()
    users = np.arange(3)
    before, served = arrays.test_histories(users), arrays.served_histories(users)
    assert before.shape == served.shape == (3, 50)
    assert before[0, :4].tolist() == [3, 5, 9, -1]  # 5 was viewed twice
    assert served[0, :5].tolist() == [8, 3, 5, 9, -1]
    assert served[2, :2].tolist() == [7, -1]


def test_times_of_the_training_views_and_the_cut_off_are_kept(prepare):
    prepared = prepare(ROWS)
    assert (prepared.first_event, prepared.last_event, prepared.cut_off) == (1, 4, 9)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("ann", 1, 1, ""), ("ann", 2, 2, "")], "at least 2 are needed"),
        ([(user, 1 + n, n, "") for user in "abcd" for n in range(2)], "1 articles have"),
        ([(user, n % 2, n, "") for n, user in enumerate("abcd")], "no user has 3 views"),
    ],
)
def test_too_little_to_learn_from_is_refused(prepare, rows, message):
    with pytest.raises(TooLittleDataError, match=message):
        prepare(rows)


def test_no_training_example_has_a_test_target_or_a_validation_label_in_it(arrays):
    training, validation = split_examples(arrays, np.random.default_rng(0))
    last = set((arrays.offsets[1:] - 1).tolist())
    assert len(validation) > 0
    assert set(validation.places.tolist()) <= last
    assert not set(training.places.tolist()) & set(validation.places.tolist())
    # Sequences hold training views only, and each window ends before its label.
    assert len(arrays.articles) == arrays.offsets[-1]
    owners = arrays.owners()
    for place, begin, history in zip(
        training.places, training.begins, training.batch().history, strict=True
    ):
        views = latest_views(arrays.articles[begin:place])
        assert history[: len(views)].tolist() == views
        assert not history[len(views) :].any()
        assert owners[begin] == owners[place]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=4), st.integers(1, 90), st.data())
def test_a_window_holds_the_articles_viewed_last_each_once(lengths, articles, data):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    views = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        articles, size=offsets[-1]
    )
    users = np.arange(len(lengths))
    ends = np.array([data.draw(st.integers(int(offsets[u]), int(offsets[u + 1]))) for u in users])
    rows = history_windows(views, find_repeats(views, offsets), offsets[:-1], ends, -1)
    for begin, end, row in zip(offsets, ends, rows, strict=False):
        expected = latest_views(views[begin:end])
        assert row.tolist() == expected + [-1] * (50 - len(expected))


def test_a_window_looks_as_far_back_as_it_takes_in_little_memory(monkeypatch):
    monkeypatch.setattr("pipeline.windows._PLACES_AT_ONCE", 1_000)
    views = np.concatenate([np.arange(100, 160), np.zeros(9_000, np.int64), [7, 0, 7]])
    offsets = np.array([0, len(views)])
    ends = np.array([3, 60, 9_000, len(views)])
    rows = history_windows(views, find_repeats(views, offsets), np.zeros(4, int), ends, -1)
    assert [row[row >= 0].tolist() for row in rows] == [latest_views(views[:end]) for end in ends]
    assert rows[3, :3].tolist() == [7, 0, 159]


def test_without_repeats_a_window_is_the_last_50_views():
    views, offsets = np.arange(1, 301), np.array([0, 200, 300])
    ends = np.array([200, 300, 30])
    begins = np.array([0, 200, 0])
    rows = history_windows(views, find_repeats(views, offsets), begins, ends, 0)
    assert rows[0].tolist() == list(range(200, 150, -1))
    assert rows[1].tolist() == list(range(300, 250, -1))
    assert rows[2].tolist() == [*range(30, 0, -1), *[0] * 20]


def test_users_are_drawn_among_those_whose_history_is_known(prepare):
    unknown = [(f"u{n:03}", 1_000 + n, n, "") for n in range(400)]
    arrays = prepare([*ROWS, *unknown]).load()
    assert sorted(arrays.sample_known_users(16, seed=1).tolist()) == [0, 1]
    assert len(arrays.sample_known_users(1, seed=1)) == 1


def test_users_who_left_the_known_articles_far_behind_are_too_little(prepare):
    """Each views two known articles and then sixty that nobody else views."""
    known = [(user, article, article, "") for user in "abc" for article in (1, 2)]
    rare = [
        (user, 1_000 * (1 + "abc".index(user)) + n, 9 + n, "") for user in "abc" for n in range(60)
    ]
    arrays = prepare([*known, *rare]).load()
    assert arrays.vocabulary.tolist() == [1, 2]
    with pytest.raises(TooLittleDataError, match="among the last 50"):
        arrays.sample_known_users(16, seed=1)
