"""Replaying the golden queries of a manifest."""

import numpy as np
from numpy.typing import NDArray

from faiss_server.errors import RefusalReason, ReleaseRefusedError
from faiss_server.search import Searcher, SearchQuery
from releases.manifest import GoldenQuery, Manifest

__all__ = ["replay_golden_queries"]


def replay_golden_queries(searcher: Searcher, manifest: Manifest) -> None:
    """Search each golden query with the manifest's nprobe and compare.

    Raises ReleaseRefusedError where ids or scores differ by more than `GoldenQuery` allows.
    """
    for number, golden in enumerate(manifest.golden_queries):
        vectors = np.array([golden.vector], np.float32)
        result = searcher.search(SearchQuery(vectors, max(1, len(golden.article_ids))))
        difference = _difference(golden, result.article_ids, result.scores)
        if difference is not None:
            raise ReleaseRefusedError(
                RefusalReason.GOLDEN_QUERIES,
                f"release {manifest.release}: golden_queries.{number}: {difference}",
            )


def _difference(
    golden: GoldenQuery, article_ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> str | None:
    expected = np.array(golden.scores)
    if not expected.size:
        return None
    if article_ids.size != expected.size:
        return f"{article_ids.size} articles are found, {expected.size} are expected"
    tolerance = golden.score_tolerance * float(np.abs(expected).max())
    off = np.abs(scores - expected)
    if (off > tolerance).any():
        place = int(off.argmax())
        return f"the score at place {place} is {scores[place]:g}, not {expected[place]:g}"
    # An id that the manifest does not list can only have come in over the end of the list.
    own = dict(zip(golden.article_ids, golden.scores, strict=True))
    for place, (article_id, score) in enumerate(zip(article_ids.tolist(), scores, strict=True)):
        if abs(own.get(article_id, golden.scores[-1]) - score) > tolerance:
            return f"article {article_id} at place {place} is not expected there"
    return None
