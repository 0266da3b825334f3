from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from releases.store import ReleaseStore


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "local"


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReleaseStore]:
    """A store of each kind that runs without a network."""
    urls = {
        "path": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{tmp_path.name}/store",
    }
    yield ReleaseStore(urls[request.param])
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def disk_store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(str(tmp_path / "store"))
