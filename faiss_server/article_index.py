"""The faiss index of one release, addressed by position.

A position is an article's place among all articles in ascending order of id. Positions replace the
ids inside the index once it is loaded: a set of articles is then a bitmap of one bit per article,
which faiss tests in a nanosecond whatever the ids are, and finding a vector by position takes
faiss's array map of 8 bytes per article where its map by id takes a hash table.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from releases.manifest import Manifest

__all__ = ["ArticleIndex", "open_article_index"]


class ArticleIndex:
    """Search and vectors by position. Safe to use from many threads at once."""

    def __init__(self, index: Any, article_ids: NDArray[np.int64]) -> None:
        self._index = index
        self.article_ids = article_ids
        """int64[n], ascending: the article at each position."""
        self.dimension: int = index.d
        self.lists: int = index.nlist

    def __len__(self) -> int:
        return self.article_ids.size

    def positions_of(self, article_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Answer each article's position, -1 where the index does not have it."""
        places = np.searchsorted(self.article_ids, article_ids)
        places[places == self.article_ids.size] = 0
        return np.where(self.article_ids[places] == article_ids, places, -1)

    def nearest(
        self, vectors: NDArray[np.float32], k: int, nprobe: int, allowed: Any | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Search; answer positions int64[rows, k] and scores float32[rows, k], best first.

        Equal scores are in order of article id. Where the probed lists hold too little the
        position is -1. `allowed` is a faiss IDSelector of positions.
        """
        # Parameters without nprobe silently mean 1; one object is never shared between threads.
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=allowed)
        scores, positions = self._index.search(vectors, k, params=parameters)
        if not (scores[:, 1:] == scores[:, :-1]).any():
            return positions, scores  # faiss sorts by score
        order = np.lexsort((positions, -scores), axis=-1)
        return np.take_along_axis(positions, order, -1), np.take_along_axis(scores, order, -1)

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Answer the stored vectors, float32[n, dimension]; compressed ones are decoded."""
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(positions)
        return vectors


def open_article_index(path: Path, manifest: Manifest) -> ArticleIndex:
    """Read an index into memory and compare it with its manifest.

    Raises ReleaseRefusedError. The file is read, not mapped: a file that changes under a map kills
    the process, and the first searches of a mapped index wait for the disk.
    """
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        what = str(error).rsplit("Error: ", 1)[-1].strip() or type(error).__name__
        raise ReleaseRefusedError(RefusalReason.FILES, f"{path}: not readable: {what}") from error
    _check_description(index, manifest, path)
    _check_reach(index, path)
    article_ids = _number_by_position(index, path)
    index.set_direct_map_type(faiss.DirectMap.Array)
    return ArticleIndex(index, article_ids)


def _check_description(index: Any, manifest: Manifest, path: Path) -> None:
    if not isinstance(index, faiss.IndexIVF) or not isinstance(
        faiss.downcast_InvertedLists(index.invlists), faiss.ArrayInvertedLists
    ):
        _refuse(path, f"{type(index).__name__} is not an IVF index with lists in memory")
    if not index.is_trained:
        _refuse(path, "the index is not trained")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        _refuse(path, "the metric is not the inner product")
    for name, found, expected in (
        ("dimension", index.d, manifest.dimension),
        ("article_count", index.ntotal, manifest.article_count),
        ("index.lists", index.nlist, manifest.index.lists),
    ):
        if found != expected:
            _refuse(path, f"{name} is {found}, the manifest says {expected}")


def _check_reach(index: Any, path: Path) -> None:
    """Every article must be found where all lists are probed, or "no more articles" is untrue."""
    nothing = np.zeros((1, index.d), np.float32)
    # The zero vector's score is 0 with every article, but no number where a value is not finite.
    everywhere = faiss.SearchParametersIVF(nprobe=index.nlist)
    found, _, _ = index.range_search(nothing, -1.0, params=everywhere)
    if found[-1] != index.ntotal:
        _refuse(
            path,
            f"a search of all lists reaches {found[-1]} of {index.ntotal} articles: some vectors "
            "are not finite, or the coarse quantizer is approximate",
        )


def _number_by_position(index: Any, path: Path) -> NDArray[np.int64]:
    """Replace the ids in the lists by positions; answer the ids, ascending."""
    lists = faiss.downcast_InvertedLists(index.invlists)
    views = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
        for number in range(index.nlist)
        if lists.list_size(number)
    ]
    article_ids: NDArray[np.int64] = np.concatenate(views) if views else np.empty(0, np.int64)
    article_ids.sort()
    if article_ids.size != index.ntotal:
        _refuse(path, f"the lists hold {article_ids.size} articles, the header says {index.ntotal}")
    if article_ids[0] < 0:
        _refuse(path, f"article id {article_ids[0]} is negative")
    if (article_ids[1:] == article_ids[:-1]).any():
        _refuse(path, "an article id is there twice")
    for view in views:
        view[:] = np.searchsorted(article_ids, view)
    return article_ids


def _refuse(path: Path, message: str) -> None:
    raise ReleaseRefusedError(RefusalReason.INDEX, f"{path}: {message}")
