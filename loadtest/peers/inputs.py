"""`python -m loadtest.peers.inputs DIRECTORY ARTICLES`: what every system is given.

The vectors and ids of the bench's catalogue, the vectors of some users to tune with, of others to
measure with, and the true nearest articles of both. The release's nprobe was chosen on the first
users, so both come after those.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.bench import catalogue as recipe
from loadtest.bench.catalogue import generate, mean_vectors
from loadtest.errors import LoadTestError
from local_stack.processes import tied_to_this_process

__all__ = ["Inputs", "K", "prepare_inputs"]

K: Final = 200
_CHOSEN_ON: Final = 512
_TUNING: Final = slice(_CHOSEN_ON, 2 * _CHOSEN_ON)
_MEASURING: Final = slice(2 * _CHOSEN_ON, None)


@dataclass(frozen=True)
class Inputs:
    """Files of one directory."""

    directory: Path

    @property
    def vectors(self) -> Path:
        """float32[articles, 64]."""
        return self.directory / "vectors.npy"

    @property
    def ids(self) -> Path:
        """int64[articles]."""
        return self.directory / "ids.npy"

    @property
    def tuning(self) -> Path:
        """float32[queries, 64], to choose the effort with."""
        return self.directory / "tuning.npy"

    @property
    def queries(self) -> Path:
        """float32[queries, 64], to measure with."""
        return self.directory / "queries.npy"

    def nearest(self, queries: Path) -> NDArray[np.int64]:
        """Answer the true nearest ids of either: int64[queries, 200], best first."""
        nearest: NDArray[np.int64] = np.load(_nearest(queries))
        return nearest


def prepare_inputs(cache: Path, articles: int) -> Inputs:
    """Make the files in the cache, or take them from there; raises LoadTestError."""
    exact = files("faiss_server") / "exact.py"
    sources = (Path(__file__), Path(recipe.__file__), exact)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    directory = cache / f"inputs-{articles}-{digest}"
    command = [sys.executable, "-m", "loadtest.peers.inputs", str(directory), str(articles)]
    if subprocess.run(tied_to_this_process(command), check=False).returncode != 0:
        raise LoadTestError(f"no vectors of {articles} articles could be made; see above")
    return Inputs(directory)


def _nearest(queries: Path) -> Path:
    return queries.with_name(f"{queries.stem}-nearest.npy")


def main() -> None:
    """Make the files, unless they are there."""
    from faiss_server.exact import exact_top_k  # noqa: PLC0415 - who measures needs no faiss

    inputs, articles = Inputs(Path(sys.argv[1])), int(sys.argv[2])
    done = inputs.directory / "done"
    if done.exists():
        return
    inputs.directory.mkdir(parents=True, exist_ok=True)
    made = generate(articles)
    np.save(inputs.vectors, made.vectors)
    np.save(inputs.ids, made.article_ids)
    users = mean_vectors(made.histories, made.article_ids, made.vectors)
    for path, rows in ((inputs.tuning, _TUNING), (inputs.queries, _MEASURING)):
        np.save(path, users[rows])
        nearest = made.article_ids[exact_top_k(made.vectors, users[rows], K)]
        np.save(_nearest(path), nearest)
    done.touch()


if __name__ == "__main__":
    main()
