"""The seventh step: what the faiss server loads: index, popular articles and attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import BuildError, build_index, check_spec, write_index
from faiss_server.spec import AUTO
from pipeline.collect import CollectedEvents
from pipeline.exported import ExportedModel, ServedTower
from pipeline.items import read_attributes
from pipeline.options import RunOptions
from pipeline.popular import write_popular
from pipeline.prepared import PreparedData, UserSample
from pipeline.records import StepRecord
from pipeline.transform import Vocabulary
from releases.layout import (
    ATTRIBUTES_FILE,
    HISTORY_LENGTH,
    INDEX_FILE,
    POPULAR_FILE,
    Part,
    part_path,
)
from releases.manifest import IndexInfo

__all__ = ["IndexedArticles", "check_index_options", "index_articles"]

_USERS: Final = 1_000


@dataclass(frozen=True)
class IndexedArticles(StepRecord):
    """The folder of the index, laid out as a store, and how the index is to be searched."""

    release: int
    info: IndexInfo
    """What the manifest says of the index."""

    @property
    def samples(self) -> Path:
        """What the release recommends to a few users (`pipeline.samples`)."""
        return self.directory / "samples.json"

    @property
    def index_file(self) -> Path:
        """The faiss index."""
        return self.directory / part_path(Part.INDEX, self.release) / INDEX_FILE


def check_index_options(options: RunOptions) -> None:
    """Refuse a spec that the vectors will not fit, before any are learnt. Raises BuildError."""
    learnt, added = options.train.dimension, int(options.popularity_debias != 0)
    try:
        check_spec(options.index_spec, learnt + added)
    except BuildError as error:
        hint = f" (--popularity-debias makes {learnt + added} of --dimension {learnt})"
        raise BuildError(f"{error}{hint if added else ''}") from None


def index_articles(  # noqa: PLR0913 - those after the star have defaults
    exported: ExportedModel,
    prepared: PreparedData,
    collected: CollectedEvents,
    directory: Path,
    *,
    recall_target: float = 0.99,
    spec: str = AUTO,
    memory_bytes: int | None = None,
    seed: int = 1,
) -> IndexedArticles:
    """Index the article vectors; nprobe is chosen on the vectors of a sample of users.

    The recall is that of other users. Popular articles are counted over all views. `spec` and
    `memory_bytes` are those of `faiss_server.spec.resolve_spec`. Raises BuildError.
    """
    folder = directory / part_path(Part.INDEX, exported.release)
    folder.mkdir(parents=True, exist_ok=True)
    articles, regions = prepared.graph.articles(), prepared.graph.regions()
    queries, held_out = _sample_of_user_vectors(
        exported, prepared.sample(), articles, regions, seed
    )
    built = build_index(
        exported.article_vectors(),
        exported.article_ids(),
        queries,
        query_groups=2 if len(regions.ids) else 1,
        held_out=held_out,
        recall_target=recall_target,
        spare=HISTORY_LENGTH,
        seed=seed,
        spec=spec,
        memory_bytes=memory_bytes,
    )
    write_index(built, folder / INDEX_FILE)
    article_ids = np.sort(articles.ids)
    items = collected.items
    attributes = {} if items is None else read_attributes(items, article_ids)
    write_popular(collected.article_views, article_ids, attributes, folder / POPULAR_FILE)
    _write_attributes(article_ids, attributes, folder / ATTRIBUTES_FILE)
    return IndexedArticles(directory, exported.release, built.info)


def _sample_of_user_vectors(
    exported: ExportedModel,
    sample: UserSample,
    articles: Vocabulary,
    regions: Vocabulary,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of two halves of a sample of users; a single user is in both."""
    users = sample.known_users(articles.ids, _USERS, seed)
    half = len(users) // 2
    tower = ServedTower(exported.saved_model)
    queries, held_out = (
        _vectors_of_requests(tower, sample, part, regions)
        for part in (users[half:], users[: half or 1])
    )
    return queries, held_out


def _vectors_of_requests(
    tower: ServedTower, sample: UserSample, users: NDArray[np.int64], known_regions: Vocabulary
) -> NDArray[np.float32]:
    """Vectors as requests give them: with the region and, where there are any, also without."""
    histories, regions = sample.served_histories(users), sample.target_regions[users]
    if len(known_regions.ids):
        histories = np.concatenate([histories, histories])
        regions = np.concatenate([regions, np.full_like(regions, -1)])
    vectors, _ = tower.user_vectors(histories, regions)
    return vectors


def _write_attributes(
    article_ids: NDArray[np.int64], attributes: Mapping[str, NDArray[np.int64]], path: Path
) -> None:
    columns = {f"attribute:{name}": values for name, values in attributes.items()}
    columns["article_ids"] = article_ids
    np.savez(path, allow_pickle=False, **columns)
