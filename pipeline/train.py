"""The fourth step: learn the user tower within a time budget, stopping on a held-out validation."""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from pydantic import TypeAdapter

from pipeline._memory import keep_freed_memory
from pipeline.choice import settings_of
from pipeline.datasets import validation_batches
from pipeline.errors import TrainingError
from pipeline.lessons import lessons
from pipeline.options import TowerSettings, TrainOptions
from pipeline.prepared import PreparedData
from pipeline.records import RECORD_FILE, StepRecord
from pipeline.tower import Tower
from pipeline.towers import build_tower
from pipeline.trainer import Round, Trainer
from pipeline.workers import Workers

__all__ = ["OnRound", "Round", "TrainedModel", "load_tower", "train"]

OnRound = Callable[[Round], None]

_CHECKPOINTS = "checkpoints"  # what a training goes on from


@dataclass(frozen=True)
class TrainedModel(StepRecord):
    """The settings to rebuild the tower, and how it was learnt."""

    tower: TowerSettings
    rounds: tuple[Round, ...]
    seconds: float
    batch_size: int
    """Views to foretell in a step."""
    view_count: int
    """Views to foretell in an epoch: examples, or the steps of sequences."""

    @property
    def weights(self) -> Path:
        """The weights (.npz, in the tower's order)."""
        return self.directory / "weights.npz"

    @property
    def logs(self) -> Path:
        """The folder for TensorBoard."""
        return self.directory / "logs"

    @property
    def best_round(self) -> Round:
        """The round whose weights were kept."""
        return min(self.rounds, key=lambda each: each.validation_loss)


def train(
    prepared: PreparedData,
    options: TrainOptions,
    directory: Path,
    on_round: OnRound = lambda _round: None,
) -> TrainedModel:
    """Learn from the examples and keep the weights of the lowest validation loss.

    Goes on from the last round of a training that was killed in this folder, if it had the same
    options and examples; what another one left is removed. Where TF_CONFIG names several workers
    they learn one model, each called with the same arguments and a folder that all of them see;
    the chief writes into it, the others answer a record in a folder of their own. Raises
    TrainingError.
    """
    keep_freed_memory()
    workers = Workers.of_this_process()
    keras.utils.set_random_seed(options.seed)
    settings = settings_of(options, prepared)
    taught = lessons(settings.model, options, prepared, workers)
    if not taught.steps_of_epoch:
        raise TrainingError(
            f"{taught.view_count} views to foretell are too few: in a step {workers.count} "
            f"{'worker' if workers.count == 1 else 'workers'} of the {settings.model} take "
            f"{taught.batch_size} or more (give more events, fewer workers or --model mean-pooling)"
        )
    with workers.strategy.scope():
        tower = build_tower(settings, workers.index)
    validation = validation_batches(prepared.validation_examples, settings.article_count)
    trainer = Trainer(workers, tower, taught, validation, options)
    if workers.is_chief:
        _remove_others(directory, _fingerprint(prepared, options, workers.count))
    workers.agree(True)  # nobody looks for a checkpoint before
    checkpoints = trainer.checkpoints(directory / _CHECKPOINTS)
    checkpoints.restore_or_initialize()
    if not workers.is_chief:
        directory, checkpoints = _scratch(), None
    with tf.summary.create_file_writer(str(directory / "logs")).as_default():
        for each in trainer.rounds():
            if checkpoints is not None:
                checkpoints.save()
            _log(each, len(trainer.rounds_so_far()))
            on_round(each)
    np.savez(directory / "weights.npz", *trainer.best_weights)
    rounds = trainer.rounds_so_far()
    return TrainedModel(
        directory=directory,
        tower=tower.settings,
        rounds=rounds,
        seconds=rounds[-1].seconds,
        batch_size=taught.batch_size,
        view_count=taught.view_count,
    )


def _fingerprint(prepared: PreparedData, options: TrainOptions, worker_count: int) -> str:
    """Tell trainings apart: by their options, and by what preprocessing said of their data."""
    told = TypeAdapter(TrainOptions).dump_json(options)
    data = (prepared.directory / RECORD_FILE).read_bytes()
    return hashlib.sha256(b"%d %s %s" % (worker_count, told, data)).hexdigest()


def _remove_others(directory: Path, fingerprint: str) -> None:
    """Leave what a training with this fingerprint left, and nothing of any other."""
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory / _CHECKPOINTS / "fingerprint"
    if mark.exists() and mark.read_text() == fingerprint:
        return
    for each in (_CHECKPOINTS, "logs"):
        shutil.rmtree(directory / each, ignore_errors=True)
    mark.parent.mkdir()
    mark.write_text(fingerprint)


def _scratch() -> Path:
    """Make a folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="worker-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def load_tower(trained: TrainedModel) -> Tower:
    """Rebuild the tower with the weights that were kept."""
    tower = build_tower(trained.tower)
    with np.load(trained.weights) as weights:
        tower.set_weights([weights[f"arr_{i}"] for i in range(len(weights.files))])
    return tower


def _log(done: Round, number: int) -> None:
    """Write a round for TensorBoard."""
    tf.summary.scalar("loss/training", done.training_loss, step=number)
    tf.summary.scalar("loss/validation", done.validation_loss, step=number)
    tf.summary.scalar("epochs", done.epochs, step=number)
    tf.summary.scalar("seconds", done.seconds, step=number)
