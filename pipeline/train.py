"""The third step: learn the user tower within a time budget, stopping on a held-out validation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from pipeline.examples import split_examples
from pipeline.model import UserTower
from pipeline.options import TowerSettings, TrainOptions
from pipeline.preprocess import PreparedData
from pipeline.trainer import Round, Trainer, choose_batch_size

__all__ = ["OnRound", "Round", "TrainedModel", "load_tower", "train"]

OnRound = Callable[[Round], None]


@dataclass(frozen=True)
class TrainedModel:
    """Weights (.npz, in the tower's order), the settings to rebuild it, and how it was learnt."""

    weights: Path
    tower: TowerSettings
    rounds: tuple[Round, ...]
    seconds: float
    batch_size: int
    example_count: int

    @property
    def best_round(self) -> Round:
        """The round whose weights were kept."""
        return min(self.rounds, key=lambda each: each.validation_loss)


def train(
    prepared: PreparedData,
    options: TrainOptions,
    workdir: Path,
    on_round: OnRound = lambda _round: None,
) -> TrainedModel:
    """Learn from every view that has an earlier one of the same user, and keep the best weights.

    Best is the lowest loss on the last training view of a sample of users, which is in no
    training example. Raises TrainingError or TooLittleDataError.
    """
    started = time.monotonic()
    keras.utils.set_random_seed(options.seed)
    examples, validation = split_examples(prepared.load(), np.random.default_rng(options.seed))
    tower = _new_tower(prepared, options)
    trainer = Trainer(tower, examples, validation, options)
    rounds = []
    for each in trainer.rounds():
        rounds.append(each)
        on_round(each)
    workdir.mkdir(parents=True, exist_ok=True)
    weights = workdir / "weights.npz"
    np.savez(weights, *trainer.best_weights)
    return TrainedModel(
        weights=weights,
        tower=tower.settings,
        rounds=tuple(rounds),
        seconds=time.monotonic() - started,
        batch_size=choose_batch_size(options, len(examples)),
        example_count=len(examples),
    )


def load_tower(trained: TrainedModel) -> UserTower:
    """Rebuild the tower with the weights that were kept."""
    tower = UserTower(trained.tower)
    with np.load(trained.weights) as weights:
        tower.set_weights([weights[f"arr_{i}"] for i in range(len(weights.files))])
    return tower


def _new_tower(prepared: PreparedData, options: TrainOptions) -> UserTower:
    return UserTower(
        TowerSettings(
            article_count=prepared.article_count,
            region_count=prepared.region_count,
            dimension=options.dimension,
            hidden_units=options.hidden_units,
            dropout=options.dropout,
            history_dropout=options.history_dropout,
            region_dropout=options.region_dropout,
        )
    )
