"""`python -m loadtest.bench.floor STORE RELEASE REDIS_URL USERS`: the work without any RPC.

What the three servers do for one answer, by direct calls in one process: the history from Redis,
the user vector, the search, the answer as lists. A companion: see `loadtest.bench.companion`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import redis

from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.search import SearchQuery
from loadtest.bench.companion import answer_lines, timed
from recommender.backends import padded_histories
from recommender.domain import HISTORY_LENGTH
from releases.layout import Part, manifest_path, part_path
from releases.manifest import Manifest
from service_runtime.process import settle_memory
from tf_serving.model import LoadedModel, load_model

_K = 200
_SIGNATURE = "serving_default"


class Floor:
    """Answers users, one after another."""

    def __init__(self, client: Any, model: LoadedModel, release: LoadedRelease) -> None:
        self._client = client
        self._model = model
        self._release = release

    def history(self, user: str) -> list[int]:
        """Read what a user viewed, newest first."""
        members = self._client.zrange(
            f"recsys:history:{{{user}}}", 0, HISTORY_LENGTH - 1, desc=True
        )
        return [int(member) for member in members]

    def user_vector(self, history: Sequence[int]) -> Any:
        """Compute float32[1, d]."""
        inputs = {"history": padded_histories([history]), "region": np.array([-1], np.int64)}
        return self._model.run(_SIGNATURE, inputs, ())["user_vector"]

    def answer(self, user: str) -> tuple[list[int], list[float]]:
        """Answer the 200 nearest articles that the user has not viewed, and their scores."""
        history = self.history(user)
        excluded = [np.array(history, np.int64)]
        query = SearchQuery(self.user_vector(history), _K, excluded_ids=excluded)
        result = self._release.searcher.search(query)
        return result.article_ids.tolist(), result.scores.tolist()

    def bare_search(self, vectors: Any) -> None:
        """Ask faiss, and do nothing with what it finds."""
        self._release.index.nearest(vectors, _K, self._release.manifest.index.nprobe)


def main() -> None:
    """Load everything, then measure as often as asked."""
    store, release = Path(sys.argv[1]), int(sys.argv[2])
    redis_url, users = sys.argv[3], int(sys.argv[4])
    manifest = Manifest.model_validate_json((store / manifest_path(release)).read_bytes())
    floor = Floor(
        redis.Redis.from_url(redis_url),
        load_model(store / part_path(Part.MODEL, release)),
        load_release(manifest, store),
    )
    settle_memory()
    random = Random(1)  # noqa: S311 - which user asks next

    def anybody() -> str:
        return str(random.randint(1, users))

    def measure(seconds: float) -> dict[str, str]:
        vector = floor.user_vector(floor.history(anybody()))
        return {
            "answer": timed(lambda: floor.answer(anybody()), seconds).encode(),
            "search": timed(lambda: floor.bare_search(vector), seconds / 4).encode(),
        }

    answer_lines(measure)


if __name__ == "__main__":
    main()
