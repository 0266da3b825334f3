"""Vocabulary, held-out targets, examples, and the one transform graph of training and serving."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.elsewhere import Elsewhere
from pipeline.errors import TooLittleDataError
from pipeline.examples import cut_examples, parse_examples
from pipeline.holdout import HoldOut, Scan, Views, choose_hold_out
from pipeline.options import PreprocessOptions
from pipeline.prepared import PreparedData, UserSample
from pipeline.preprocess import preprocess
from pipeline.transform import ARTICLE_INDICES, ARTICLES, REGION_INDICES, REGIONS
from pipeline.windows import find_repeats, history_windows
from tests.support.collecting import collect

# What Beam and TensorFlow Transform warn of is not of our making.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    ("ann", 5, 1, 70),
    ("ann", 9, 2, 71),
    ("ann", 5, 3, 70),
    ("ann", 3, 4, 71),
    ("ann", 8, 9, 71),
    ("bob", 1, 0, ""),
    ("bob", 9, 1, ""),
    ("bob", 3, 2, ""),
    ("bob", 5, 3, ""),
    ("cat", 7, 1, 70),
    ("dan", 5, 2, 70),
    ("dan", 3, 4, 71),
    ("dan", 9, 5, 71),
]


def latest_views(views):
    """The different articles of these views (oldest first) as a history holds them."""
    return list(dict.fromkeys(views[::-1].tolist()))[:50]


def read_examples(files):
    records = [r.numpy() for r in tf.data.TFRecordDataset(list(map(str, files)), "GZIP")]
    return {name: value.numpy() for name, value in parse_examples(records).items()}


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    def run(rows, **options):
        folder = tmp_path_factory.mktemp("prepare")
        events = folder / "events.csv"
        lines = [",".join(map(str, row)) for row in rows]
        events.write_text("\n".join(["user_id,item_id,timestamp,region_id", *lines]))
        collected = collect(events, None, folder / "collect")
        directory = folder / "preprocess"
        directory.mkdir()
        chosen = PreprocessOptions(**{"split": "last-view", **options})
        preprocess(collected, chosen, directory).save()
        return PreparedData.load(directory)

    return run


@pytest.fixture(scope="module")
def prepared(prepare):
    return prepare(ROWS)


def test_workers_elsewhere_read_and_write_at_a_place_that_they_see(prepare, prepared, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    theirs = prepare(ROWS, beam_arguments=(f"--temp_location={place}",))
    assert list(place.iterdir()) == []
    assert replace(theirs, directory=prepared.directory) == prepared
    ours = prepared.graph.articles()
    assert theirs.graph.articles().ids.tolist() == ours.ids.tolist()
    assert theirs.sample().article_ids.tolist() == prepared.sample().article_ids.tolist()
    assert [file.name for file in theirs.examples] == [file.name for file in prepared.examples]


def test_what_workers_did_not_write_is_missed(tmp_path):
    with Elsewhere(str(tmp_path)) as elsewhere:
        (brought,) = elsewhere.bring([Path(__file__)])
        assert Path(brought).read_text() == Path(__file__).read_text()
        with pytest.raises(FileNotFoundError, match="wrote nothing there"):
            elsewhere.fetch(["transform"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_is_in_descending_frequency_without_rare_articles(prepared):
    articles, regions = prepared.graph.articles(), prepared.graph.regions()
    assert dict(zip(articles.ids.tolist(), articles.counts.tolist(), strict=True)) == {
        5: 3,
        3: 3,
        9: 2,
    }
    assert articles.counts.tolist() == [3, 3, 2]
    assert set(regions.ids.tolist()) == {70, 71}  # -1, unknown, is no region
    assert (prepared.article_count, prepared.region_count) == (3, 2)


def test_the_last_view_of_each_user_is_the_target_and_in_no_count(prepared):
    sample = prepared.sample()
    assert sample.user_ids == ("ann", "bob", "cat", "dan")
    assert sample.targets.tolist() == [8, 5, -1, 9]
    assert sample.target_regions.tolist() == [71, -1, -1, 71]
    assert sample.offsets.tolist() == [0, 4, 7, 8, 10]
    assert sample.article_ids.tolist() == [5, 9, 5, 3, 1, 9, 3, 7, 5, 3]
    assert 8 not in prepared.graph.articles().ids
    assert prepared.test_user_count == 3


def test_histories_are_newest_first_with_and_without_the_target(prepared):
    users = np.arange(4)
    sample = prepared.sample()
    before, served = sample.test_histories(users), sample.served_histories(users)
    assert before.shape == served.shape == (4, 50)
    assert before[0, :4].tolist() == [3, 5, 9, -1]  # 5 was viewed twice
    assert served[0, :5].tolist() == [8, 3, 5, 9, -1]
    assert served[2, :2].tolist() == [7, -1]


def test_times_of_the_training_views_and_the_cut_off_are_kept(prepared):
    assert (prepared.first_event, prepared.last_event, prepared.cut_off) == (0, 4, 9)


def test_every_view_of_a_known_article_that_has_one_before_it_is_an_example(prepared):
    """Whether drawn for validation or not: ann 9, 5, 3; bob 9, 3 (after a rare one); dan 3."""
    assert prepared.example_count + prepared.validation_count == 6
    articles = prepared.graph.articles().ids
    found = read_examples([*prepared.examples, *prepared.validation_examples])
    rows = {
        (
            tuple(articles[i - 1] if i else 0 for i in history[:3].tolist()),
            int(articles[label]),
        )
        for history, label in zip(found["history"], found["label"], strict=True)
    }
    assert rows == {
        ((5, 0, 0), 9),
        ((9, 5, 0), 5),
        ((5, 9, 0), 3),
        ((0, 0, 0), 9),
        ((9, 0, 0), 3),
        ((5, 0, 0), 3),
    }


def test_the_examples_are_what_the_served_graph_makes_of_the_raw_views(tiny_run):
    """Row for row: raw windows through the graph inside the SavedModel, against the records."""
    prepared, sample = tiny_run.result.prepared, tiny_run.result.prepared.sample()
    known = np.isin(sample.article_ids, prepared.graph.articles().ids)
    owners = np.repeat(np.arange(len(sample.targets)), np.diff(sample.offsets))
    begins = sample.offsets[:-1][owners]
    places = np.flatnonzero((np.arange(len(known)) > begins) & known)
    raw = history_windows(sample.article_ids, sample.repeats, begins[places], places, -1)
    model = tf.saved_model.load(str(tiny_run.workdir / "export" / "models/user_tower/1700000000"))
    transformed = model.graph.transform_fn(
        {
            ARTICLES: tf.RaggedTensor.from_tensor(raw),
            REGIONS: tf.RaggedTensor.from_tensor(np.full((len(raw), 1), -1)),
        }
    )
    served = transformed[ARTICLE_INDICES].to_tensor().numpy()
    assert not transformed[REGION_INDICES].to_tensor().numpy().any()
    labels = prepared.graph.articles().indices(sample.article_ids[places]) - 1
    expected = sorted(zip(map(tuple, served.tolist()), labels.tolist(), strict=True))
    found = read_examples([*prepared.examples, *prepared.validation_examples])
    rows = sorted(zip(map(tuple, found["history"].tolist()), found["label"].tolist(), strict=True))
    assert rows == expected


def test_a_split_by_time_learns_nothing_that_came_after_it(prepare):
    """The newest two of ten users are asked: all that came since the earlier one of them."""
    rows = [
        (f"u{n:02}", article, 100 * n + article, "") for n in range(20) for article in (1, 2, 3)
    ]
    rows += [("u00", 4, 5_000, ""), ("late", 1, 4_000, "")]
    prepared = prepare(rows, split="time", min_article_views=1)
    assert prepared.split_since == 1903  # u19's last view; u00 came back after it
    assert prepared.test_user_count == 2
    assert prepared.last_event == 1902
    sample = prepared.sample()
    tested = {
        sample.user_ids[u]: int(sample.targets[u]) for u in np.flatnonzero(sample.targets > 0)
    }
    assert tested == {"u00": 4, "u19": 3}
    assert sample.test_histories(np.array([sample.user_ids.index("u00")]))[0, :4].tolist() == [
        3,
        2,
        1,
        -1,
    ]
    assert 4 not in prepared.graph.articles().ids


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(user, 1 + n, n, "") for user in "abcd" for n in range(2)], "1 articles have"),
        ([(user, n % 2, n, "") for n, user in enumerate("abcd")], "no training example is left"),
    ],
)
def test_too_little_to_learn_from_is_refused(prepare, rows, message):
    with pytest.raises(TooLittleDataError, match=message):
        prepare(rows)


@pytest.mark.parametrize(
    ("rows", "since", "message"),
    [
        (ROWS, 100, r"from 1970-01-01 00:01:40 UTC \(100\) on, and no user of two views or more"),
        (ROWS, 0, r"no view comes before it: the first view is of .* \(0\), the last of .* \(9\)"),
        ([(user, n, 86_400, "") for user in "ab" for n in (1, 2)], None, "no view comes before it"),
        ([("ann", 1, 5, ""), ("bob", 1, 5, "")], None, "no user of two views or more"),
    ],
)
def test_a_moment_that_leaves_nobody_to_ask_or_nothing_to_learn_is_refused(
    prepare, rows, since, message
):
    with pytest.raises(TooLittleDataError, match=f"{message}.*give --split last-view, another"):
        prepare(rows, split="time", split_since=since)


def test_users_with_too_few_views_are_not_learnt_from(prepare):
    prepared = prepare(ROWS, min_user_views=4, min_article_views=1)
    assert prepared.user_count == 2  # ann and bob
    assert 7 not in prepared.graph.articles().ids


def test_more_users_than_asked_for_are_sampled(prepare):
    rows = [(f"u{n:03}", 1 + (n + k) % 7, k, "") for n in range(300) for k in range(4)]
    prepared = prepare(rows, max_test_users=30)
    tested = int((prepared.sample().targets >= 0).sum())
    assert prepared.test_user_count == 300
    assert 10 <= tested <= 60


@pytest.fixture
def sampled(tmp_path):
    """Users with their last view held out, without Beam: all of them are in the sample."""

    def read(rows):
        events = tmp_path / "events.csv"
        lines = [",".join(map(str, row)) for row in rows]
        events.write_text("\n".join(["user_id,item_id,timestamp,region_id", *lines]))
        (shard,) = collect(events, None, tmp_path / "collect").histories
        return UserSample.read(shard, HoldOut("last-view"))

    return read


def test_users_who_left_the_known_articles_far_behind_are_too_little(sampled):
    """Each views two known articles and then sixty that nobody else views."""
    known = [(user, article, article, "") for user in "abc" for article in (1, 2)]
    rare = [
        (user, 1_000 * (1 + "abc".index(user)) + n, 9 + n, "") for user in "abc" for n in range(60)
    ]
    with pytest.raises(TooLittleDataError, match="among the last 50"):
        sampled([*known, *rare]).known_users(np.array([1, 2]), 16, seed=1)


def test_users_are_found_where_hardly_any_has_a_known_article(sampled):
    """Among 703 users only three have viewed what others have viewed too."""
    alone = [(f"{'az'[user % 2]}{user}", 1_000 + user, 1, "") for user in range(700)]
    alike = [(f"m{user}", article, article, "") for user in range(3) for article in range(1, 9)]
    sample = sampled([*alone, *alike])
    found = sample.known_users(np.arange(1, 9), 16, seed=1)
    assert sorted(sample.user_ids[user] for user in found) == ["m0", "m1", "m2"]


def test_a_user_with_many_views_is_cut_like_any_other():
    views = np.arange(5_000) % 777
    examples = cut_examples(np.array([0, 5_000]), views, views + 1, np.zeros(5_000, np.int64))
    assert len(examples) == 4_999
    assert examples.history[-1].tolist() == latest_views(views[:-1] + 1)


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6).map(sorted), min_size=1),
    st.integers(1, 5),
)
def test_each_split_is_as_defined_for_any_views(times, most):
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in times])]).astype(np.int64)
    flat = np.array([t for user in times for t in user], np.int64)
    views = Views(offsets, flat, flat, flat)
    seen = Scan(views.counts, flat[offsets[1:] - 1])
    for split in ("time", "last-view"):
        hold_out = choose_hold_out(split, seen, most)
        counts, tested = hold_out.training_counts(views), hold_out.is_tested(views)
        for user, at in enumerate(times):
            if split == "last-view":
                learnt = at[:-1] if len(at) > 1 else at
            else:
                learnt = [t for t in at if t < hold_out.since]
            assert counts[user] == len(learnt)
            assert tested[user] == (len(at) > 1 and len(learnt) < len(at))
    assert dataclasses.astuple(HoldOut("last-view")) == ("last-view", None)


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
