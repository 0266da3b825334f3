"""The faiss index of one release, addressed by position.

A position is an article's place among all articles in ascending order of id. Positions replace the
ids inside the index once it is loaded: a set of articles is then a bitmap of one bit per article,
which faiss tests in a nanosecond whatever the ids are, and finding a vector by position takes
faiss's array map of 8 bytes per article where its map by id takes a hash table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss
from faiss_server.attributes import are_in
from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.index_kind import IndexKind
from faiss_server.index_layout import kinds_of, read_layout
from releases.manifest import Manifest

__all__ = ["ArticleIndex", "article_index_of", "open_article_index", "read_index_kind"]

# A millisecond's work or less: faiss scores codes in 0.5 ms, numpy turns half floats into floats.
_CODES_AT_ONCE: Final = 16_384
_FINER_AT_ONCE: Final = 4_096


class ArticleIndex:
    """Search and vectors by position. Safe to use from many threads at once."""

    def __init__(
        self, kind: IndexKind, article_ids: NDArray[np.int64], refine_factor: float = 1.0
    ) -> None:
        self._kind = kind
        self._searched = kind.searched
        self._halves = kind.halves
        self._refine_factor = refine_factor
        self._last_parameters: tuple[int, Any] = (0, None)
        self._sizes_of_lists = kind.sizes_of_lists()
        self.article_ids = article_ids
        """int64[n], ascending: the article at each position."""
        self.dimension: int = kind.searched.d
        self.lists: int = kind.lists

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
        parameters = self._parameters(nprobe, allowed)
        scores, positions = self._searched.search(vectors, k, params=parameters)
        if not (scores[:, 1:] == scores[:, :-1]).any():
            return positions, scores  # faiss sorts by score
        order = np.lexsort((positions, -scores), axis=-1)
        return np.take_along_axis(positions, order, -1), np.take_along_axis(scores, order, -1)

    def _parameters(self, nprobe: int, allowed: Any | None) -> Any:
        # Made once for a release's nprobe: by SWIG it takes 30 µs. A search only reads them.
        if allowed is not None:
            return self._kind.parameters(nprobe, self._refine_factor, allowed)
        known, parameters = self._last_parameters
        if known != nprobe:
            parameters = self._kind.parameters(nprobe, self._refine_factor)
            self._last_parameters = (nprobe, parameters)
        return parameters

    def parts(
        self, vector: NDArray[np.float32], k: int, bits: NDArray[np.uint8]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Search exactly for float32[dimension], a millisecond's work at a time.

        Yields positions int64[<= k] and scores of the best of each part that the bitmap has.
        """
        if not self._kind.is_refined:
            allowed = faiss.IDSelectorBitmap(bits)
            yield from self._kind.search_by_parts(
                vector, k, allowed, self._sizes_of_lists, _CODES_AT_ONCE
            )
            return
        # Finer vectors lie in order of position.
        for begin in range(0, len(self), _FINER_AT_ONCE):
            positions = np.arange(begin, min(begin + _FINER_AT_ONCE, len(self)))
            positions = positions[are_in(bits, positions)]
            scores = self.vectors_at(positions) @ vector
            if k < scores.size:
                best = np.argpartition(scores, scores.size - k)[scores.size - k :]
                positions, scores = positions[best], scores[best]
            yield positions, scores

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Answer the stored vectors, float32[n, dimension]; compressed ones are decoded."""
        if self._halves is not None:  # faiss decodes one after another: four times as long
            return self._halves[positions].astype(np.float32)
        vectors: NDArray[np.float32] = self._searched.reconstruct_batch(positions)
        return vectors


def open_article_index(path: Path, manifest: Manifest) -> ArticleIndex:
    """Read an index into memory and compare it with its manifest.

    Raises ReleaseRefusedError. The file is read, not mapped: a file that changes under a map kills
    the process, and the first searches of a mapped index wait for the disk.
    """
    layout = read_layout(path)
    try:
        kinds = kinds_of(manifest.index.type)
    except ValueError as error:
        _refuse(path, f"the manifest's index.type: {error}")
    for name, found, expected in (
        ("dimension", layout.dimension, manifest.dimension),
        ("article_count", layout.articles, manifest.article_count),
        ("index.lists", layout.lists, manifest.index.lists),
        (f"kind of index for {manifest.index.type!r}", layout.kinds, kinds),
    ):
        if found != expected:
            _refuse(path, f"{name} is {found}, the manifest says {expected}")
    return article_index_of(_parsed(path), path, manifest.index.refine_factor)


def read_index_kind(path: Path) -> IndexKind:
    """Read an index of a kind that can be served; raises ReleaseRefusedError."""
    read_layout(path)
    return _parsed(path)


def _parsed(path: Path) -> IndexKind:
    """Have faiss read a file that was gone through before."""
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        what = str(error).rsplit("Error: ", 1)[-1].strip() or type(error).__name__
        raise ReleaseRefusedError(RefusalReason.FILES, f"{path}: not readable: {what}") from error
    return IndexKind.of(index)


def article_index_of(kind: IndexKind, path: Path, refine_factor: float) -> ArticleIndex:
    """Number the articles by position, once each can be reached; raises ReleaseRefusedError."""
    if (reached := kind.reached()) != kind.index.ntotal:
        _refuse(
            path,
            f"a search of all lists reaches {reached} of {kind.index.ntotal} articles: some "
            "vectors are not finite, or the coarse quantizer is approximate",
        )
    article_ids = _number_by_position(kind, path)
    kind.ivf.set_direct_map_type(faiss.DirectMap.NoMap)  # the file's goes by other numbers
    if not kind.is_refined:  # finer vectors lie in order of position
        kind.ivf.set_direct_map_type(faiss.DirectMap.Array)
    return ArticleIndex(kind, article_ids, refine_factor)


def _number_by_position(kind: IndexKind, path: Path) -> NDArray[np.int64]:
    """Have the lists number the articles by position; answer the ids, ascending."""
    views = kind.ids_in_lists()
    numbers: NDArray[np.int64] = np.concatenate(views)
    numbers.sort()
    if kind.has_id_map:
        if (numbers != np.arange(numbers.size)).any():
            _refuse(path, "the lists do not number the articles 0, 1, ...")
        numbers = faiss.vector_to_array(kind.index.id_map)
        if (numbers[1:] < numbers[:-1]).any():
            _refuse(path, "the table of article ids is not in ascending order")
    if numbers[0] < 0:
        _refuse(path, f"article id {numbers[0]} is negative")
    if (numbers[1:] == numbers[:-1]).any():
        _refuse(path, "an article id is there twice")
    if not kind.has_id_map:
        for view in views:
            view[:] = np.searchsorted(numbers, view)
    return numbers


def _refuse(path: Path, message: str) -> NoReturn:
    raise ReleaseRefusedError(RefusalReason.INDEX, f"{path}: {message}")
