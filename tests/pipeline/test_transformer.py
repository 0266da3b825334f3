"""The transformer learns the very function that it serves, and can be trained like any tower."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.choice import choose_epochs, choose_model, choose_row_count, settings_of
from pipeline.datasets import SequenceBatches
from pipeline.errors import TrainingError
from pipeline.export import export
from pipeline.exported import ServedTower
from pipeline.options import TowerSettings, TrainOptions
from pipeline.report import training_section
from pipeline.sequences import cut_sequences, parse_sequences
from pipeline.towers import build_tower
from pipeline.train import load_tower, train

SETTINGS = TowerSettings("transformer", 30, 3, 8, (), 0.0, 0.0, 0.0, layers=2, heads=2)
FAST = TrainOptions(
    model="transformer",
    dimension=8,
    dropout=0.1,
    learning_rate=1e-2,
    batch_size=200,
    max_epochs=3,
)


@pytest.fixture(scope="module")
def learnt(tiny_run, tmp_path_factory):
    """A training, and the learning rate of each of its rounds."""
    optimizers, rates = [], []

    class Noted(keras.optimizers.Adam):
        def __init__(self, rate):
            super().__init__(rate)
            optimizers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.optimizers, "Adam", Noted)
        trained = train(
            replace(tiny_run.result.prepared, example_count=1),  # it learns from steps alone
            FAST,
            tmp_path_factory.mktemp("learnt"),
            lambda _round: rates.append(float(optimizers[0].learning_rate)),
        )
    return trained, rates


@pytest.fixture(scope="module")
def tower():
    keras.utils.set_random_seed(1)
    made = build_tower(SETTINGS)
    for weight in made.trainable_variables:  # those that begin at zero too
        weight.assign_add(tf.random.stateless_normal(weight.shape, (1, len(weight.shape))))
    return made


def served(tower, articles, region=0):
    history = np.zeros((1, 50), np.int32)
    history[0, : len(articles)] = articles
    return tower(tf.constant(history), tf.constant([region], tf.int32)).numpy()[0]


def test_each_place_of_a_row_answers_as_a_request_with_its_history_would(tower):
    article = np.array([[5, 3, 9, 4, 7, 2]], np.int32)
    owner = np.array([[0, 0, 0, 1, 1, 1]], np.int32)
    region = np.array([[0, 1, 2, 0, 0, 3]], np.int32)
    label = np.array([[1, 5, 3, 8, 4, 7]], np.int32)
    batch = {"article": article, "owner": owner, "region": region, "label": label}
    vectors, labels = tower.learn({name: tf.constant(value) for name, value in batch.items()})
    assert labels.numpy().tolist() == label[0].tolist()
    histories = [[5, 3, 9], [3, 9], [9], [4, 7, 2], [7, 2], [2]]
    for vector, history, where in zip(vectors.numpy(), histories, region[0], strict=True):
        assert np.allclose(vector, served(tower, history, where), atol=1e-4)


def test_order_counts_and_unknown_views_are_passed_over(tower):
    plain = served(tower, [5, 3, 9])
    assert np.allclose(served(tower, [0, 5, 0, 0, 3, 9]), plain, atol=1e-5)
    assert not np.allclose(served(tower, [5, 9, 3]), plain, atol=1e-2)
    assert not np.allclose(served(tower, [5, 3]), plain, atol=1e-2)


def test_what_stands_in_the_place_of_unknown_views_is_not_looked_at():
    """Their index, 0, has no vector: the first article's is gathered, and masked."""
    keras.utils.set_random_seed(1)
    made = build_tower(SETTINGS)
    before = served(made, [0, 5, 0, 3, 9]), served(made, [5, 1])
    vectors = made.article_vectors.numpy()
    vectors[0] += 1.0
    made.article_vectors.assign(vectors)
    after = served(made, [0, 5, 0, 3, 9]), served(made, [5, 1])
    assert np.array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1], atol=1e-3)


def test_without_a_known_view_the_answer_is_still_a_number(tower):
    assert np.isfinite(served(tower, [])).all()


def test_a_sequence_holds_the_known_views_without_what_validates():
    """Users viewed 1 0 2 3 | 4 | 5 6 | 0 7 8; of the second and the last one view is held back."""
    offsets = np.array([0, 4, 5, 7, 10])
    articles = np.array([1, 0, 2, 3, 4, 5, 6, 0, 7, 8])
    held_back = np.array([False, True, False, True])
    batch = cut_sequences(offsets, articles, articles * 10, held_back)
    assert batch.to_pydict() == {
        "articles": [[6, 5], [3, 2, 1]],
        "regions": [[60, 50], [30, 20, 10]],
    }


def test_steps_lead_from_each_view_to_the_next(tiny_run):
    prepared = tiny_run.result.prepared
    records = [
        record.numpy()
        for record in tf.data.TFRecordDataset([str(f) for f in prepared.sequences], "GZIP")
    ]
    steps = {name: each.numpy() for name, each in parse_sequences(records, 100).items()}
    assert len(steps["article"]) == prepared.step_count
    same = steps["owner"][1:] == steps["owner"][:-1]
    assert steps["owner"].min() >= 100
    assert (steps["article"][:-1][same] == steps["label"][1:][same] + 1).all()


def test_rows_are_full_and_an_epoch_can_be_asked_again(tiny_run):
    prepared = tiny_run.result.prepared
    batches = SequenceBatches(prepared.sequences, prepared.step_count, 4, seed=1)

    def articles(number, skip=0):
        return [batch["article"].numpy().tolist() for batch in batches.epoch(number, skip)]

    first = articles(0)
    assert len(first) == prepared.step_count // 50 // 4
    assert all(min(row) > 0 and len(row) == 50 for batch in first for row in batch)
    assert articles(0) == first
    assert articles(0, skip=1) == first[1:]
    assert articles(1) != first


def test_parts_of_workers_are_together_the_batch_of_one(tiny_run):
    prepared = tiny_run.result.prepared

    def batches(*worker):
        made = SequenceBatches(prepared.sequences, prepared.step_count, 4, 1, *worker)
        return [{name: rows.numpy() for name, rows in batch.items()} for batch in made.epoch(0)]

    for whole, first, second in zip(batches(), batches(0, 2), batches(1, 2), strict=True):
        for name, rows in whole.items():
            assert np.array_equal(rows[0::2], first[name])
            assert np.array_equal(rows[1::2], second[name])


def test_the_learning_rate_falls_in_equal_steps_to_nothing(learnt):
    _, rates = learnt
    assert rates == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3], rel=1e-5)


def test_it_is_learnt_exported_and_served(tiny_run, learnt, tmp_path):
    prepared, (trained, _) = tiny_run.result.prepared, learnt
    assert trained.tower.model == "transformer"
    assert (
        f"{prepared.step_count} views to foretell, 200 in a step" in training_section(trained).text
    )
    assert trained.best_round.validation_loss < trained.rounds[0].validation_loss
    exported = export(trained, prepared, tmp_path / "export", release=1)
    ids = prepared.graph.articles().ids
    history = np.full((1, 50), -1, np.int64)
    history[0, :3] = ids[[4, 9, 2]]
    asked = ServedTower(exported.saved_model)
    vectors, known = asked.user_vectors(history, np.array([-1]))
    assert known.tolist() == [3]
    assert np.allclose(vectors[0], served(load_tower(trained), [5, 10, 3]), atol=1e-4)


def test_too_few_steps_to_fill_a_row_are_told(tiny_run, tmp_path):
    few = replace(tiny_run.result.prepared, step_count=49)
    with pytest.raises(
        TrainingError, match=r"49 views .* too few: in a step 1 worker of .* \(give more"
    ):
        train(few, FAST, tmp_path)


class KilledError(Exception):
    """Stands for the end of the process, right after a checkpoint."""


def test_a_training_that_was_killed_goes_on_as_it_would_have(tiny_run, learnt, tmp_path):
    prepared, (whole, _) = tiny_run.result.prepared, learnt

    def end_after_the_first(_done):
        raise KilledError

    with pytest.raises(KilledError):
        train(prepared, FAST, tmp_path / "killed", end_after_the_first)
    resumed = train(prepared, FAST, tmp_path / "killed")
    for ours, theirs in zip(resumed.rounds, whole.rounds, strict=True):
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-2)


@pytest.mark.parametrize(
    ("steps", "articles", "model", "dropout", "epochs"),
    [
        (1_000, 100, "mean-pooling", 0.3, 5),
        (1_000_000, 3_000, "transformer", 0.2, 15),
        (1_000_000, 20_000, "transformer", 0.26, 11),
        (1_000_000, 50_000, "transformer", 0.3, 7),
        (10**9, 10**6, "transformer", 0.2, 5),
    ],
)
def test_what_is_learnt_and_how_follows_from_the_amount_of_data(
    tiny_run, steps, articles, model, dropout, epochs
):
    prepared = replace(tiny_run.result.prepared, step_count=steps, article_count=articles)
    assert choose_model(TrainOptions(), prepared) == model
    assert settings_of(TrainOptions(model="mean-pooling"), prepared).dropout == 0.3
    asked_for = TrainOptions(model="transformer")
    assert settings_of(asked_for, prepared).dropout == pytest.approx(dropout, abs=0.01)
    assert settings_of(replace(asked_for, dropout=0.1), prepared).dropout == 0.1
    assert choose_epochs(asked_for, steps, articles) == epochs
    with pytest.raises(TrainingError, match="65, is no multiple of"):
        settings_of(replace(asked_for, dimension=65), prepared)


@pytest.mark.parametrize(
    ("available", "workers", "rows"), [(3, 1, 3), (800, 1, 8), (20_000, 1, 64), (20_000, 3, 63)]
)
def test_rows_of_a_batch_grow_with_the_data(available, workers, rows):
    assert choose_row_count(TrainOptions(), available, workers) == rows
