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
from pipeline.windows import history_windows

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
    assert before[0, :5].tolist() == [3, 5, 9, 5, -1]
    assert served[0, :6].tolist() == [8, 3, 5, 9, 5, -1]
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
        views = arrays.articles[begin:place][::-1][:50]
        assert history[: len(views)].tolist() == views.tolist()
        assert not history[len(views) :].any()
        assert owners[begin] == owners[place]


@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.data())
def test_a_window_holds_the_last_views_newest_first(lengths, data):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    views = np.arange(1, offsets[-1] + 1)
    user = data.draw(st.integers(0, len(lengths) - 1))
    end = data.draw(st.integers(int(offsets[user]), int(offsets[user + 1])))
    row = history_windows(views, offsets[[user]], np.array([end]), -1)[0]
    expected = views[offsets[user] : end][::-1][:50].tolist()
    assert row.tolist() == expected + [-1] * (50 - len(expected))
