"""The sixth step: what the faiss server loads: index, popular articles and attributes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import build_index, write_index
from pipeline.collect import CollectedEvents
from pipeline.export import ExportedModel, ServedTower
from pipeline.items import read_attributes
from pipeline.popular import write_popular
from pipeline.preprocess import PreparedArrays, PreparedData
from releases.layout import (
    ATTRIBUTES_FILE,
    HISTORY_LENGTH,
    INDEX_FILE,
    POPULAR_FILE,
    Part,
    part_path,
)

__all__ = ["IndexedArticles", "index_articles"]

_USERS: Final = 1_000


@dataclass(frozen=True)
class IndexedArticles:
    """The folder of the index and how the index is to be searched."""

    folder: Path
    type: str
    lists: int
    nprobe: int
    recall_at_200: float

    @property
    def index_file(self) -> Path:
        """The faiss index."""
        return self.folder / INDEX_FILE


def index_articles(
    exported: ExportedModel,
    prepared: PreparedData,
    collected: CollectedEvents,
    *,
    recall_target: float = 0.99,
    seed: int = 1,
) -> IndexedArticles:
    """Index the article vectors; nprobe is chosen on the vectors of a sample of users.

    The recall is that of other users. Popular articles are counted over all views.
    """
    folder = exported.staging / part_path(Part.INDEX, exported.release)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = prepared.load()
    queries, held_out = _sample_of_user_vectors(exported, arrays, seed)
    built = build_index(
        exported.article_vectors(),
        exported.article_ids(),
        queries,
        query_groups=2 if len(arrays.region_vocabulary) else 1,
        held_out=held_out,
        recall_target=recall_target,
        spare=HISTORY_LENGTH,
        seed=seed,
    )
    write_index(built, folder / INDEX_FILE)
    write_popular(collected.events, arrays.vocabulary, folder / POPULAR_FILE)
    _write_attributes(arrays, collected.items, folder / ATTRIBUTES_FILE)
    return IndexedArticles(folder, built.type, built.lists, built.nprobe, built.recall_at_200)


def _sample_of_user_vectors(
    exported: ExportedModel, arrays: PreparedArrays, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of two halves of a sample of users; a single user is in both."""
    users = arrays.sample_known_users(_USERS, seed)
    half = len(users) // 2
    tower = ServedTower(exported.saved_model)
    queries, held_out = (
        _vectors_of_requests(tower, arrays, part) for part in (users[half:], users[: half or 1])
    )
    return queries, held_out


def _vectors_of_requests(
    tower: ServedTower, arrays: PreparedArrays, users: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Vectors as requests give them: with the region and, where there are any, also without."""
    histories, regions = arrays.served_histories(users), arrays.target_regions[users]
    if len(arrays.region_vocabulary):
        histories = np.concatenate([histories, histories])
        regions = np.concatenate([regions, np.full_like(regions, -1)])
    vectors, _ = tower.user_vectors(histories, regions)
    return vectors


def _write_attributes(arrays: PreparedArrays, items: Path | None, path: Path) -> None:
    article_ids = np.sort(arrays.vocabulary)
    attributes = {} if items is None else read_attributes(items, article_ids)
    columns = {f"attribute:{name}": values for name, values in attributes.items()}
    columns["article_ids"] = article_ids
    np.savez(path, allow_pickle=False, **columns)
