"""Golden histories: what model and index of a release, asked together, must answer."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server.build import search_file
from pipeline.exported import ExportedModel, ServedTower
from pipeline.index import IndexedArticles
from pipeline.prepared import PreparedData
from releases.manifest import GoldenHistory, GoldenQuery

__all__ = ["Goldens", "ask_goldens"]

_COUNT: Final = 16
_TOP: Final = 20
_SEED: Final = 1


@dataclass(frozen=True)
class Goldens:
    """A few users' histories, their vectors by the exported model, and the index's answers."""

    histories: NDArray[np.int64]
    regions: NDArray[np.int64]
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    """int64[users, 20], best first; -1 where fewer lists than needed were probed."""
    scores: NDArray[np.float32]

    def agreement(self, exported: ExportedModel) -> float:
        """Compare with exact search in the exported vectors: the share of ids found by both.

        An index built from other vectors, or with other ids, agrees on next to nothing.
        """
        exact_scores = self.vectors @ exported.article_vectors().T
        top = min(_TOP, exact_scores.shape[1])
        best = np.argpartition(-exact_scores, top - 1, axis=1)[:, :top]
        exact = exported.article_ids()[best]
        shared = [len(np.intersect1d(a, b)) for a, b in zip(self.ids, exact, strict=True)]
        return sum(shared) / exact.size

    def queries(self) -> tuple[GoldenQuery, ...]:
        """Say what the index must answer to each vector."""
        return tuple(
            GoldenQuery(
                vector=tuple(vector.tolist()),
                article_ids=tuple(ids[ids >= 0].tolist()),
                scores=tuple(scores[ids >= 0].tolist()),
            )
            for vector, ids, scores in zip(self.vectors, self.ids, self.scores, strict=True)
        )

    def answers(self) -> tuple[GoldenHistory, ...]:
        """Say what the pair must answer to each history."""
        return tuple(
            GoldenHistory(
                history=tuple(history[history >= 0].tolist()),
                region_id=int(region) if region >= 0 else None,
                expected_article_ids=tuple(ids[ids >= 0].tolist()),
            )
            for history, region, ids in zip(self.histories, self.regions, self.ids, strict=True)
        )


def ask_goldens(
    exported: ExportedModel, indexed: IndexedArticles, prepared: PreparedData
) -> Goldens:
    """Ask for a few users of whom the model knows something."""
    sample = prepared.sample()
    users = sample.known_users(prepared.graph.articles().ids, _COUNT, _SEED)
    histories, regions = sample.served_histories(users), sample.target_regions[users]
    vectors, _ = ServedTower(exported.saved_model).user_vectors(histories, regions)
    ids, scores = search_file(indexed.index_file, vectors, _TOP)
    return Goldens(histories, regions, vectors, ids, scores)
