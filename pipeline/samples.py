"""For people: what a few users viewed, and what the release recommends to them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from faiss_server.build import search_file
from pipeline.collect import CollectedEvents
from pipeline.exported import ExportedModel, ServedTower
from pipeline.index import IndexedArticles
from pipeline.items import read_titles
from pipeline.prepared import PreparedData

__all__ = ["SamplePrediction", "read_samples", "sample_predictions", "write_samples"]

_SHOWN: Final = 10
_SEED: Final = 2


@dataclass(frozen=True)
class SamplePrediction:
    """One user: articles as (id, title or "") newest first, and (id, title, score) best first."""

    user: str
    viewed: tuple[tuple[int, str], ...]
    recommended: tuple[tuple[int, str, float], ...]

    @classmethod
    def from_json(cls, document: dict[str, object]) -> Self:
        """Rebuild one from what `write_samples` wrote."""
        viewed, recommended = document["viewed"], document["recommended"]
        assert isinstance(viewed, list)  # noqa: S101 - narrows the type
        assert isinstance(recommended, list)  # noqa: S101 - narrows the type
        return cls(
            str(document["user"]),
            tuple((int(i), str(title)) for i, title in viewed),
            tuple((int(i), str(title), float(score)) for i, title, score in recommended),
        )


def sample_predictions(
    prepared: PreparedData,
    exported: ExportedModel,
    indexed: IndexedArticles,
    collected: CollectedEvents,
    count: int = 5,
) -> tuple[SamplePrediction, ...]:
    """Ask model and index for a few users, without what they have viewed."""
    sample = prepared.sample()
    users = sample.known_users(prepared.graph.articles().ids, count, _SEED)
    histories = sample.served_histories(users)
    vectors, _ = ServedTower(exported.saved_model).user_vectors(
        histories, sample.target_regions[users]
    )
    ids, scores = search_file(indexed.index_file, vectors, _SHOWN + histories.shape[1])
    asked = np.union1d(histories, ids)
    titles = {} if collected.items is None else read_titles(collected.items, asked)
    predictions = []
    for row, user in enumerate(users):
        new = ~np.isin(ids[row], histories[row]) & (ids[row] >= 0)
        viewed = histories[row][histories[row] >= 0][:_SHOWN].tolist()
        best = zip(ids[row][new][:_SHOWN].tolist(), scores[row][new][:_SHOWN].tolist(), strict=True)
        predictions.append(
            SamplePrediction(
                sample.user_ids[user],
                tuple((article, titles.get(article, "")) for article in viewed),
                tuple((article, titles.get(article, ""), score) for article, score in best),
            )
        )
    return tuple(predictions)


def write_samples(samples: tuple[SamplePrediction, ...], path: Path) -> None:
    """Write them as JSON."""
    path.write_text(json.dumps([asdict(each) for each in samples], indent=1) + "\n")


def read_samples(path: Path) -> tuple[SamplePrediction, ...]:
    """Read what `write_samples` wrote."""
    return tuple(SamplePrediction.from_json(each) for each in json.loads(path.read_text()))
