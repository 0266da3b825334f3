from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from local_stack.redis import start_redis
from releases.layout import Part
from releases.store import ReleaseStore
from releases.sync import Mirror
from tests.faiss_server.making import Made, make_release, publish_release
from tests.faiss_server.serving import SERVED, RunningFaissServer, running


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A release that no test changes."""
    return make_release(tmp_path_factory.mktemp("made"), 1_700_000_000)


@pytest.fixture(scope="session")
def loaded(made: Made) -> LoadedRelease:
    return load_release(made.manifest, made.root)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A release with more articles than are ever scored one by one."""
    root = tmp_path_factory.mktemp("large")
    return make_release(root, 1_700_000_001, articles=40_000, factory="IVF64,Flat")


@pytest.fixture(scope="session")
def large_loaded(large: Made) -> LoadedRelease:
    return load_release(large.manifest, large.root)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(str(tmp_path / "store"))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def changes() -> list[None]:
    """Gets an element at each change of the holder."""
    return []


@pytest.fixture
def on_change() -> list[Callable[[], object]]:
    """What is called at each change of the holder."""
    return []


@pytest.fixture
def add(store: ReleaseStore, tmp_path: Path) -> Callable[..., object]:
    """Publishes a release that is made as it is told."""
    return lambda release, **how: publish_release(store, tmp_path / "staging", release, **how)


@pytest.fixture
def clock() -> list[float]:
    """The time of `in_use`, for a test to move on."""
    return [100.0]


@pytest.fixture
def in_use(clock: list[float]) -> ReleasesInUse:
    return ReleasesInUse(lambda: clock[0])


@pytest.fixture
def holder(
    store: ReleaseStore,
    tmp_path: Path,
    registry: CollectorRegistry,
    changes: list[None],
    on_change: list[Callable[[], object]],
    in_use: ReleasesInUse,
) -> ReleaseHolder:
    into = tmp_path / "local"
    mirror = Mirror(store, into, [Part.INDEX], in_use=in_use.in_use)
    metrics = FaissServerMetrics(registry)
    on_change.append(lambda: changes.append(None))
    return ReleaseHolder(
        store, mirror, into, metrics, lambda: [call() for call in on_change], in_use.in_use
    )


@pytest.fixture
def published(store: ReleaseStore, tmp_path: Path) -> Made:
    return publish_release(store, tmp_path / "staging", SERVED)


@pytest.fixture
async def server(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> AsyncIterator[RunningFaissServer]:
    async with running(store, tmp_path) as server:
        await server.until_ready(SERVED)
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("redis")
    process, url = start_redis(directory, directory / "redis.log")
    yield url
    process.stop()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
