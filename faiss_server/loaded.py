"""A release that is in memory, checked, and ready to be searched."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from faiss_server.article_index import ArticleIndex, open_article_index
from faiss_server.attributes import Attributes
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.golden import replay_golden_queries
from faiss_server.popular import PopularLists
from faiss_server.search import Searcher, SearchQuery
from faiss_server.tables import read_attribute_table, read_popular_lists
from releases.layout import ATTRIBUTES_FILE, INDEX_FILE, POPULAR_FILE, Part, part_path
from releases.manifest import Manifest
from service_runtime.errors import InvalidRequestError
from service_runtime.short_work import ShortWork

__all__ = ["LoadedRelease", "index_bytes", "load_release"]

_WARM_K: Final = 200


@dataclass(frozen=True, eq=False)
class LoadedRelease:
    """Everything that answers for one release. Its memory goes with its last reference."""

    manifest: Manifest
    index: ArticleIndex
    searcher: Searcher
    popular: PopularLists
    pace: ShortWork
    """Of plain searches with the release's nprobe, by row."""


def load_release(manifest: Manifest, root: Path) -> LoadedRelease:
    """Read a release from `root`, laid out as a store, check it and warm it.

    Raises ReleaseRefusedError.
    """
    home = root / part_path(Part.INDEX, manifest.release)
    _check_sizes(manifest, root)
    index = open_article_index(home / INDEX_FILE, manifest)
    table = read_attribute_table(home / ATTRIBUTES_FILE)
    popular = read_popular_lists(home / POPULAR_FILE, table)
    attributes = Attributes(table.of(index.article_ids), len(index))
    searcher = Searcher(index, attributes, manifest.index.nprobe)
    try:
        replay_golden_queries(searcher, manifest)
        pace = _warmed(searcher, manifest)
    except InvalidRequestError as error:
        raise ReleaseRefusedError(
            RefusalReason.GOLDEN_QUERIES, f"{home}: a golden query fails: {error}"
        ) from error
    return LoadedRelease(manifest, index, searcher, popular, pace)


def index_bytes(manifest: Manifest) -> int:
    """Answer the size of the index file; 0 where the manifest lists none."""
    name = f"{part_path(Part.INDEX, manifest.release)}/{INDEX_FILE}"
    return next((entry.size for entry in manifest.files if entry.path == name), 0)


def _check_sizes(manifest: Manifest, root: Path) -> None:
    """Checksums were compared when the files arrived; a parser need not meet a cut-off one."""
    listed = {Path(entry.path).name: entry for entry in manifest.part_files(Part.INDEX)}
    for name in (INDEX_FILE, ATTRIBUTES_FILE, POPULAR_FILE):
        if name not in listed:
            raise ReleaseRefusedError(
                RefusalReason.FILES, f"release {manifest.release}: the manifest lists no {name}"
            )
        path = root / listed[name].path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ReleaseRefusedError(RefusalReason.FILES, f"{path}: {error.strerror}") from error
        if size != listed[name].size:
            raise ReleaseRefusedError(
                RefusalReason.FILES,
                f"{path}: has {size} bytes, the manifest says {listed[name].size}",
            )


def _warmed(searcher: Searcher, manifest: Manifest) -> ShortWork:
    """Search every list once: the first callers shall not wait for cold caches. Then see how long
    an ordinary search takes.
    """
    vectors = np.array([manifest.golden_queries[0].vector], np.float32)
    searcher.search(SearchQuery(vectors, _WARM_K, nprobe=manifest.index.lists))
    pace = ShortWork()
    started = time.thread_time()
    searcher.search(SearchQuery(vectors, _WARM_K))
    pace.learn(time.thread_time() - started)
    return pace
