"""One tiny run over synthetic events, shared by the tests that look at its parts."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.exported import ServedTower
from pipeline.options import PreprocessOptions, RunOptions, TrainOptions
from pipeline.prepared import UserSample
from pipeline.run import RunResult, run
from pipeline.transform import Vocabulary
from releases.layout import Part, part_path

RELEASE = 1_700_000_000
USERS = 150
ARTICLES = 60
GROUPS = 6  # a user stays in one group and walks through it


@dataclass(frozen=True)
class TinyRun:
    """The result of a run and where it left its files."""

    result: RunResult
    events: Path
    workdir: Path
    store: Path

    def part(self, part: Part) -> Path:
        return self.store / part_path(part, RELEASE)


def synthetic_events(seed: int = 3) -> list[tuple[str, int, int, int | str]]:
    """Rows of user, article, time and region (one in five unknown), in random order."""
    random = np.random.default_rng(seed)
    rows: list[tuple[str, int, int, int | str]] = []
    for user in range(USERS):
        group = int(random.integers(GROUPS))
        place = int(random.integers(ARTICLES // GROUPS))
        for step in range(int(random.integers(4, 12))):
            article = 1000 + group + GROUPS * ((place + step) % (ARTICLES // GROUPS))
            region: int | str = "" if random.random() < 0.2 else 70 + group % 2
            rows.append((f"user {user}", article, 1_600_000_000 + 60 * step + user, region))
    random.shuffle(rows)
    return rows


def write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("tiny_run")
    header = "user_id,item_id,timestamp,region_id"
    events = write_csv(folder / "events.csv", header, [*synthetic_events(), ("once", 1000, 5, 9)])
    titles = [(article, f"Title {article}", article % 7) for article in range(1000, 1090)]
    items = write_csv(folder / "items.csv", "item_id,title,genre", [*titles])
    options = RunOptions(
        events=events,
        items=str(items),
        store=str(folder / "store"),
        release=RELEASE,
        preprocess=PreprocessOptions(split="last-view"),
        train=TrainOptions(
            dimension=16, hidden_units=(32,), learning_rate=1e-2, batch_size=32, max_epochs=10
        ),
    )
    return TinyRun(run(options, folder / "work"), events, folder / "work", folder / "store")


@pytest.fixture(scope="session")
def sample(tiny_run: TinyRun) -> UserSample:
    return tiny_run.result.prepared.sample()


@pytest.fixture(scope="session")
def articles(tiny_run: TinyRun) -> Vocabulary:
    return tiny_run.result.prepared.graph.articles()


@pytest.fixture(scope="session")
def regions(tiny_run: TinyRun) -> Vocabulary:
    return tiny_run.result.prepared.graph.regions()


@pytest.fixture(scope="session")
def tower(tiny_run: TinyRun) -> ServedTower:
    return ServedTower(tiny_run.part(Part.MODEL))
