"""`python -m loadtest.bench.indexes CACHE ARTICLES SPEC RECALL`: makes what `make bench-index`
searches, unless the cache has it. Imported, it opens what was made.

Vectors and users are those of `loadtest.bench.catalogue`, the user vectors computed as the
generated releases' models do. Serves nothing; imports what the faiss server searches with.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from faiss_server.article_index import ArticleIndex, article_index_of, read_index_kind
from faiss_server.attributes import Attributes
from faiss_server.build import OnProgress, build_index, exact_top_k, write_index
from faiss_server.search import Searcher, SearchQuery
from faiss_server.spec import resolve_spec
from loadtest.bench.catalogue import generate, mean_vectors
from releases.layout import HISTORY_LENGTH, INDEX_FILE
from releases.manifest import IndexInfo

__all__ = [
    "BenchIndex",
    "Catalogued",
    "K",
    "attributes_of",
    "built",
    "catalogued",
    "exact_ids",
    "index_place",
    "opened",
]

K: Final = 200
_USERS: Final = 1200
_TUNED_ON: Final = 512
_SHARES: Final = {"half": 2, "twentieth": 20, "rare": 200, "rarest": 10_000}
"""Attributes of so many values, each of which as many articles have: the filters' shares."""
_PLACES: Final = 20
"""Values of the attribute `place`, which articles that lie beside each other share."""


@dataclass(frozen=True)
class Catalogued:
    """Articles and users; `vectors` float32[n, 64] stay in the file."""

    directory: Path
    vectors: NDArray[np.float32]
    article_ids: NDArray[np.int64]
    users: NDArray[np.float32]
    """float32[users, 64]; the first ones are for tuning."""
    histories: NDArray[np.int64]

    @property
    def tuning(self) -> NDArray[np.float32]:
        """Users whom nprobe is chosen on."""
        return self.users[:_TUNED_ON]

    @property
    def asking(self) -> NDArray[np.float32]:
        """Users who ask."""
        return self.users[_TUNED_ON:]

    @property
    def viewed(self) -> NDArray[np.int64]:
        """What the users who ask have viewed, int64[users, 50]."""
        return self.histories[_TUNED_ON:]


@dataclass(frozen=True)
class BenchIndex:
    """An index in memory, with what it was measured to give."""

    info: IndexInfo
    index: ArticleIndex
    searcher: Searcher
    attributes: Mapping[str, NDArray[np.int64]]
    file_bytes: int
    code_bytes: int
    """Of all vectors as they are stored."""

    def ask(
        self,
        user: NDArray[np.float32],
        excluded: Sequence[NDArray[np.int64]] = (),
        nprobe: int | None = None,
    ) -> NDArray[np.int64]:
        """Answer what a server answers to float32[64]."""
        query = SearchQuery(user[None], K, nprobe, excluded)
        return self.searcher.search(query).article_ids

    def ask_bare(self, user: NDArray[np.float32]) -> None:
        """Ask faiss, and do nothing with what it finds."""
        self.index.nearest(user[None], K, self.info.nprobe)


def catalogued(directory: Path, articles: int) -> Catalogued:
    """Generate the articles, unless they are there."""
    place = directory / f"index-{articles}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        made = generate(articles, _USERS)
        users = mean_vectors(made.histories, made.article_ids, made.vectors)
        np.save(place / "users.npy", users)
        np.save(place / "histories.npy", made.histories)
        np.save(place / "ids.npy", made.article_ids)
        np.save(place / "vectors.npy", made.vectors)
        (place / "done").touch()
    return Catalogued(
        place,
        np.load(place / "vectors.npy", mmap_mode="r"),
        np.load(place / "ids.npy"),
        np.load(place / "users.npy"),
        np.load(place / "histories.npy"),
    )


def index_place(catalogue: Catalogued, spec: str) -> Path:
    """Name the folder of an index."""
    resolved = resolve_spec(spec, *catalogue.vectors.shape)
    return catalogue.directory / re.sub(r"\W+", "-", resolved)


def built(catalogue: Catalogued, spec: str, recall: float, on_progress: OnProgress) -> Path:
    """Build the index, unless it is there; answer its folder."""
    place = index_place(catalogue, spec)
    if not (place / "index.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        made = build_index(
            catalogue.vectors, catalogue.article_ids, catalogue.tuning,
            held_out=catalogue.asking, recall_target=recall, k=K, spare=HISTORY_LENGTH, spec=spec,
            on_progress=on_progress,
        )  # fmt: skip
        write_index(made, place / INDEX_FILE)
        (place / "index.json").write_text(made.info.model_dump_json(indent=1))
    return place


def opened(place: Path, columns: Mapping[str, NDArray[np.int64]]) -> BenchIndex:
    """Open an index as a server does, with these attributes."""
    info = IndexInfo.model_validate_json((place / "index.json").read_bytes())
    kind = read_index_kind(place / INDEX_FILE)
    index = article_index_of(kind, place / INDEX_FILE, info.refine_factor)
    searcher = Searcher(index, Attributes(columns, len(index)), info.nprobe)
    size = (place / INDEX_FILE).stat().st_size
    return BenchIndex(info, index, searcher, columns, size, len(index) * kind.bytes_of_codes)


def exact_ids(
    catalogue: Catalogued, users: NDArray[np.float32], kept: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Answer the ids that exact search finds among the articles that are kept, int64[users, k]."""
    if kept is None:
        return catalogue.article_ids[exact_top_k(catalogue.vectors, users, K)]
    rows = np.flatnonzero(kept)
    found = exact_top_k(catalogue.vectors[rows], users, min(K, rows.size))
    return catalogue.article_ids[rows[found]]


def attributes_of(catalogue: Catalogued) -> dict[str, NDArray[np.int64]]:
    """Make a column for each share that filters match, and one that follows the vectors."""
    random = np.random.default_rng(3)
    count = len(catalogue.article_ids)
    columns = {name: random.integers(0, values, count) for name, values in _SHARES.items()}
    directions = random.standard_normal((catalogue.vectors.shape[1], _PLACES)).astype(np.float32)
    places = np.empty(count, np.int64)
    for begin in range(0, count, 1 << 18):
        part = slice(begin, begin + (1 << 18))
        places[part] = np.argmax(catalogue.vectors[part] @ directions, axis=1)
    return columns | {"place": places}


def main() -> None:
    """Make articles and index, with all cores and a bar for each step."""
    cache, articles, spec, recall = sys.argv[1:]
    catalogue = catalogued(Path(cache), int(articles))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in ("train", "add", "tune")}
        built(
            catalogue,
            spec,
            float(recall),
            lambda stage, done, total: progress.update(tasks[stage], completed=done, total=total),
        )


if __name__ == "__main__":
    main()
