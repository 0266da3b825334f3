"""Training: what stops it, what it keeps, and the large catalogue's loss."""

import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pipeline.datasets
import pipeline.trainer
from pipeline.choice import choose_batch_size
from pipeline.datasets import TrainingBatches, validation_batches
from pipeline.errors import StepError, TrainingError
from pipeline.mean_pooling import MeanPoolingTower
from pipeline.options import RunOptions, TowerSettings, TrainOptions
from pipeline.records import has_ended
from pipeline.steps import run_step
from pipeline.train import load_tower, train
from releases.layout import HISTORY_LENGTH

FAST = TrainOptions(dimension=8, hidden_units=(8,), learning_rate=1e-2, batch_size=64, max_epochs=4)


@pytest.fixture(scope="module")
def learnt(tiny_run, tmp_path_factory):
    return train(tiny_run.result.prepared, FAST, tmp_path_factory.mktemp("learnt"))


def test_the_kept_weights_are_those_of_the_lowest_validation_loss(tiny_run):
    trained = tiny_run.result.trained
    losses = [each.validation_loss for each in trained.rounds]
    assert trained.best_round.validation_loss == min(losses)
    assert losses[0] > min(losses)


def test_training_ends_with_its_time(tiny_run, tmp_path):
    options = TrainOptions(dimension=8, batch_size=64, max_train_seconds=1e-6)
    trained = train(tiny_run.result.prepared, options, tmp_path)
    assert len(trained.rounds) == 1


def test_training_ends_when_validation_gets_no_better(tiny_run, tmp_path):
    options = TrainOptions(dimension=8, learning_rate=0.5, patience=1, batch_size=64)
    trained = train(tiny_run.result.prepared, options, tmp_path)
    assert len(trained.rounds) < 30
    assert trained.best_round is not trained.rounds[-1]


def test_a_loss_that_is_no_number_is_told(tiny_run, tmp_path):
    options = TrainOptions(dimension=8, learning_rate=1e30, batch_size=64)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(tiny_run.result.prepared, options, tmp_path)


def test_a_large_catalogue_is_learnt_by_the_sampled_softmax(
    tiny_run, learnt, tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline.trainer, "FULL_SOFTMAX_LIMIT", 10)
    sampled = train(tiny_run.result.prepared, FAST, tmp_path)
    assert sampled.best_round.validation_loss == pytest.approx(
        learnt.best_round.validation_loss, abs=0.3
    )


def test_validation_of_a_large_catalogue_takes_fewer_examples_at_once_to_the_same_loss(
    tiny_run, learnt, tmp_path, monkeypatch
):
    prepared = tiny_run.result.prepared
    files, articles = prepared.validation_examples, prepared.article_count
    monkeypatch.setattr(pipeline.datasets, "_LOGITS_AT_ONCE", 7 * articles)
    sizes = [len(batch["label"]) for batch in validation_batches(files, articles)]
    assert set(sizes[:-1]) == {7}
    assert 0 < sizes[-1] < 7  # counts for less than the others
    assert len(next(iter(validation_batches(files, 8 * articles)))["label"]) == 1
    again = train(prepared, replace(FAST, max_epochs=1), tmp_path)
    loss = learnt.rounds[0].validation_loss
    assert again.rounds[0].validation_loss == pytest.approx(loss, abs=1e-4)


class KilledError(Exception):
    """Stands for the end of the process, right after a checkpoint."""


def test_a_training_that_was_killed_goes_on_as_it_would_have(tiny_run, learnt, tmp_path):
    def end_after_two(done):
        if done.epochs >= 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_run.result.prepared, FAST, tmp_path, end_after_two)
    seen = []
    resumed = train(tiny_run.result.prepared, FAST, tmp_path, seen.append)
    assert [each.epochs for each in seen] == [3, 4]
    assert [each.epochs for each in resumed.rounds] == [1, 2, 3, 4]
    for ours, theirs in zip(resumed.rounds, learnt.rounds, strict=True):
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, abs=1e-4)
        assert ours.training_loss == pytest.approx(theirs.training_loss, abs=1e-4)
    for ours, theirs in zip(
        load_tower(resumed).get_weights(), load_tower(learnt).get_weights(), strict=True
    ):
        assert np.allclose(ours, theirs, atol=1e-3)


def test_of_another_training_in_the_folder_nothing_is_left(tiny_run, learnt, tmp_path):
    shutil.copytree(learnt.directory, tmp_path / "used")
    fewer = replace(FAST, max_epochs=1)
    again = train(tiny_run.result.prepared, fewer, tmp_path / "used")
    assert [each.epochs for each in again.rounds] == [1]
    events = EventAccumulator(str(again.logs)).Reload().Tensors("loss/validation")
    assert len(events) == 1


def test_a_step_that_begins_takes_back_its_record(tiny_run, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(tiny_run.workdir / "train", folder)
    options = RunOptions(None, None, "", train=replace(FAST, learning_rate=1e30))
    inputs = {"preprocess": tiny_run.workdir / "preprocess"}
    with pytest.raises(StepError, match="lower the learning rate"):
        run_step("train", options, inputs, folder)
    assert not has_ended(folder)


def test_workers_draw_masks_of_their_own():
    settings = TowerSettings("mean-pooling", 20, 3, 4, (8,), 0.5, 0.5, 0.5, 1, 1)
    history, region = tf.ones((64, HISTORY_LENGTH), tf.int32), tf.ones(64, tf.int32)
    answers = []
    for worker in (0, 0, 1):
        keras.utils.set_random_seed(1)
        tower = MeanPoolingTower(settings, worker)
        answers.append([tower(history, region, training=True), tower(history, region)])
    (drawn, plain), (drawn_again, _), (drawn_by_another, plain_of_another) = answers
    assert np.array_equal(drawn, drawn_again)
    assert np.array_equal(plain, plain_of_another)
    assert not np.array_equal(drawn, drawn_by_another)


def test_tensorboard_finds_the_losses(tiny_run):
    found = EventAccumulator(str(tiny_run.result.trained.logs)).Reload()
    rounds = tiny_run.result.trained.rounds
    tags = found.Tags()["tensors"]
    assert {"loss/training", "loss/validation"} <= set(tags)
    assert len(found.Tensors("loss/validation")) == len(rounds)


def test_epochs_have_orders_of_their_own_which_can_be_asked_again(tiny_run):
    prepared = tiny_run.result.prepared
    batches = TrainingBatches(prepared.examples, prepared.example_count, 64, seed=1)

    def labels(number, skip=0):
        return [batch["label"].numpy().tolist() for batch in batches.epoch(number, skip)]

    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
    assert labels(0)[0] != sorted(labels(0)[0])
    assert labels(1, skip=2) == labels(1)[2:]


def test_weights_are_read_back_as_written(learnt):
    with np.load(learnt.weights) as stored:
        for number, weight in enumerate(load_tower(learnt).get_weights()):
            assert np.array_equal(weight, stored[f"arr_{number}"])


@pytest.mark.parametrize(
    ("examples", "batch_size"), [(2, 2), (1000, 32), (97_000, 512), (10**7, 512)]
)
def test_batches_grow_with_the_data(examples, batch_size):
    assert choose_batch_size(TrainOptions(), examples) == batch_size
