from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tf_serving.serving import MODEL, FakeLoads, SavedModels, Versions


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / MODEL)


@pytest.fixture
def loads() -> Iterator[FakeLoads]:
    loads = FakeLoads()
    yield loads
    for gate in loads.gates.values():
        gate.set()


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[[object], Path]:
    """Makes a directory that `FakeLoads` loads as the number, or does not."""

    def make(number: object) -> Path:
        directory = tmp_path / f"source-{number}"
        directory.mkdir(exist_ok=True)
        (directory / "number").write_text(str(number))
        return directory

    return make


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> SavedModels:
    return SavedModels(tmp_path_factory.mktemp("saved-models"))
