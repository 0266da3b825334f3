"""Recall of live searches, measured behind their back."""

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from faiss_server.attributes import AttributeFilter
from faiss_server.loaded import LoadedRelease, load_release
from faiss_server.metrics import FaissServerMetrics
from faiss_server.recall_watch import RecallWatch
from faiss_server.search import SearchQuery
from releases.store import ReleaseStore
from tests.faiss_server.holding import metric
from tests.faiss_server.making import Made, exact_top, make_release
from tests.faiss_server.serving import SERVED, good_search, random_vectors, running


def measured(registry: CollectorRegistry, count: int) -> float:
    """Wait for so many samples; answer their mean."""
    end = time.monotonic() + 20
    while metric(registry, "recsys_recall_at_200_count") != count:
        assert time.monotonic() < end
        time.sleep(0.002)
    return (metric(registry, "recsys_recall_at_200_sum") or 0.0) / count


@pytest.fixture
def watch(registry: CollectorRegistry) -> Iterator[RecallWatch]:
    with RecallWatch(FaissServerMetrics(registry), 1.0, rest=lambda _: None) as watch:
        yield watch


LANGUAGES = frozenset({AttributeFilter("language", frozenset({0, 1, 2}), negated=True)})


@pytest.mark.parametrize(
    ("excluded", "filters"), [(0, frozenset()), (30, frozenset()), (30, LANGUAGES)]
)
def test_the_recall_is_that_of_the_answer_against_exact_search(
    large: Made, large_loaded: LoadedRelease, registry: CollectorRegistry, watch: RecallWatch,
    excluded: int, filters: frozenset[AttributeFilter],
) -> None:  # fmt: skip
    expected = []
    for seed in range(5):
        vector = random_vectors(seed, 1)
        without, _ = exact_top(large, vector[0], excluded)
        query = SearchQuery(vector, 300, 2, [without], filters)
        result = large_loaded.searcher.search(query)
        watch.see(large_loaded, query, result)
        exact, _ = exact_top(large, vector[0], 200, without, filters)
        expected.append(np.isin(exact, result.article_ids).mean())
        mean = measured(registry, seed + 1)
    assert mean == pytest.approx(np.mean(expected))
    assert mean < 1 or filters


def test_articles_that_are_gone_are_not_missed(
    made: Made, tmp_path: Path, registry: CollectorRegistry, watch: RecallWatch
) -> None:
    loaded = load_release(made.manifest, made.root)
    loaded.searcher.leave_out(made.article_ids[:300])
    query = SearchQuery(random_vectors(1, 1), 100, 16)
    watch.see(loaded, query, loaded.searcher.search(query))
    assert measured(registry, 1) == 1


def test_more_than_a_few_samples_are_dropped_and_a_waiting_one_keeps_no_release(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    made = make_release(tmp_path, 1_700_000_003)
    loaded = load_release(made.manifest, tmp_path)
    query = SearchQuery(random_vectors(1, 1), 10)
    result = loaded.searcher.search(query)
    watch = RecallWatch(FaissServerMetrics(registry), 1.0)  # not begun: nobody measures
    for _ in range(10):
        watch.see(loaded, query, result)
    assert metric(registry, "recsys_recall_samples_dropped_total") == 6
    kept = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert kept() is None


def test_a_fault_ends_neither_the_thread_nor_the_searches(
    loaded: LoadedRelease, registry: CollectorRegistry, watch: RecallWatch
) -> None:
    query = SearchQuery(random_vectors(1, 1), 10, 16)
    result = loaded.searcher.search(query)
    watch.see(loaded, replace(query, vectors=np.zeros((1, 3), np.float32)), result)
    watch.see(loaded, query, result)
    assert measured(registry, 1) == 1
    assert metric(registry, "recsys_recall_samples_dropped_total") == 1


def test_without_a_share_nothing_is_measured(
    loaded: LoadedRelease, registry: CollectorRegistry
) -> None:
    query = SearchQuery(random_vectors(1, 1), 10, 16)
    with RecallWatch(FaissServerMetrics(registry), 0.0) as watch:
        for _ in range(100):
            watch.see(loaded, query, loaded.searcher.search(query))
    assert metric(registry, "recsys_recall_at_200_count") == 0


async def test_a_server_shows_the_recall_of_its_searches(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    async with running(store, tmp_path, recall_sample_share=1.0) as server:
        await server.until_ready(SERVED)
        await server.faiss.Search(good_search(vectors=random_vectors(1, 1).tobytes(), nprobe=16))
        end = time.monotonic() + 20
        while "recsys_recall_at_200_sum 1.0" not in _metrics(server.metrics_port):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


def _metrics(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())
