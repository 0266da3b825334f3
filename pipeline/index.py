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
from pipeline.preprocess import PreparedArrays, PreparedData
from pipeline.windows import HISTORY_LENGTH
from releases.layout import ATTRIBUTES_FILE, INDEX_FILE, POPULAR_FILE, Part, part_path

__all__ = ["IndexedArticles", "index_articles"]

_QUERIES: Final = 1_000
_POPULAR: Final = 6_000  # the API's largest limit and the longest exclusions, with room


@dataclass(frozen=True)
class IndexedArticles:
    """The folder of the index and how the index is to be searched."""

    folder: Path
    type: str
    lists: int
    nprobe: int
    recall_at_200: float
    query_count: int

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

    Popular articles are counted over the training views.
    """
    folder = exported.staging / part_path(Part.INDEX, exported.release)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = prepared.load()
    queries = _sample_of_user_vectors(exported, arrays, seed)
    built = build_index(
        exported.article_vectors(),
        exported.article_ids(),
        queries,
        recall_target=recall_target,
        spare=HISTORY_LENGTH,
        seed=seed,
    )
    write_index(built, folder / INDEX_FILE)
    _write_popular(arrays, folder / POPULAR_FILE)
    _write_attributes(arrays, collected.items, folder / ATTRIBUTES_FILE)
    return IndexedArticles(
        folder, built.type, built.lists, built.nprobe, built.recall_at_200, len(queries)
    )


def _sample_of_user_vectors(
    exported: ExportedModel, arrays: PreparedArrays, seed: int
) -> NDArray[np.float32]:
    """Vectors as requests give them: with the region and, where there are any, also without."""
    users = np.random.default_rng(seed).permutation(len(arrays.targets))[:_QUERIES]
    histories, regions = arrays.served_histories(users), arrays.target_regions[users]
    if len(arrays.region_vocabulary):
        histories = np.concatenate([histories, histories])
        regions = np.concatenate([regions, np.full_like(regions, -1)])
    vectors, known = ServedTower(exported.saved_model).user_vectors(histories, regions)
    return vectors[known > 0]


def _write_popular(arrays: PreparedArrays, path: Path) -> None:
    known = arrays.articles > 0
    articles, regions = arrays.articles[known], arrays.regions[known]
    lists = [(-1, *_most_viewed(articles, arrays.vocabulary))]
    for index, region in enumerate(arrays.region_vocabulary.tolist(), 1):
        lists.append((region, *_most_viewed(articles[regions == index], arrays.vocabulary)))
    np.savez(
        path,
        region_ids=np.concatenate([np.full(len(ids), region) for region, ids, _ in lists]),
        article_ids=np.concatenate([ids for _, ids, _ in lists]),
        views=np.concatenate([views for _, _, views in lists]),
    )


def _most_viewed(
    articles: NDArray[np.int32], vocabulary: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count views of vocabulary indices; smaller article ids first among equals."""
    views = np.bincount(articles, minlength=len(vocabulary) + 1)[1:]
    viewed = np.flatnonzero(views)
    order = viewed[np.lexsort((vocabulary[viewed], -views[viewed]))][:_POPULAR]
    return vocabulary[order], views[order].astype(np.int64)


def _write_attributes(arrays: PreparedArrays, items: Path | None, path: Path) -> None:
    article_ids = np.sort(arrays.vocabulary)
    attributes = {} if items is None else read_attributes(items, article_ids)
    columns = {f"attribute:{name}": values for name, values in attributes.items()}
    columns["article_ids"] = article_ids
    np.savez(path, allow_pickle=False, **columns)
