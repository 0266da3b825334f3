"""Whether what servers do besides answering shows in their slowest answers.

One stack at one rate, in turns: left alone, with the metrics of its servers read five times a
second, and with another release of the same size coming into service, which both backends fetch,
check, load and warm meanwhile.
"""

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from loadtest.bench.catalogue import RELEASE
from loadtest.bench.comparison import Between, measure_stack
from loadtest.errors import LoadTestError
from loadtest.measurement import Measurement
from loadtest.plan import LoadPlan
from local_stack.stack import LocalStack
from releases.layout import manifest_path
from releases.manifest import Manifest
from releases.store import ReleaseStore

__all__ = ["QUIET", "SCRAPED", "SWAPPED", "Tails", "measure_tails"]

QUIET: Final = "left alone"
SCRAPED: Final = "metrics read five times a second"
SWAPPED: Final = "another release comes into service"
_SCRAPE_SECONDS: Final = 0.2
_SETTLED_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05

Tails = Mapping[str, list[Measurement]]
"""By what went on meanwhile, one measurement of each round."""


def measure_tails(
    stack: LocalStack, store: Path, plan: LoadPlan, rounds: int, *, between: Between
) -> Tails:
    """Measure a stack over `store`, which gets a new release in each round.

    Raises LoadTestError where a release does not come into service.
    """
    releases = iter(range(RELEASE + 1, RELEASE + 1 + rounds))
    disturbances: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
        QUIET: nullcontext,
        SCRAPED: lambda: _scraped(stack),
        SWAPPED: lambda: _swapped(stack, store, next(releases), plan.warmup_seconds),
    }
    tails: dict[str, list[Measurement]] = {name: [] for name in disturbances}
    for number in range(rounds):
        for name, disturbed in disturbances.items():
            with disturbed():
                measured = measure_stack(stack, replace(plan, seed=plan.seed + number))
            tails[name].append(measured)
            between()
    return tails


@contextmanager
def _scraped(stack: LocalStack) -> Iterator[None]:
    over = threading.Event()
    failed: list[OSError] = []

    def scrape() -> None:
        try:
            while not over.wait(_SCRAPE_SECONDS):
                for address in stack.addresses.values():
                    url = f"http://127.0.0.1:{address.metrics_port}/metrics"
                    with urllib.request.urlopen(url) as response:
                        response.read()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise LoadTestError(f"reading metrics: {failed[0]}")


@contextmanager
def _swapped(stack: LocalStack, store: Path, release: int, after_seconds: float) -> Iterator[None]:
    manifest = _linked(store, release)
    document = manifest.model_dump_json().encode()
    publishing = threading.Timer(
        after_seconds,
        lambda: ReleaseStore(str(store)).create(manifest_path(release), document),
    )
    publishing.start()
    try:
        yield
    finally:
        publishing.join()
    _wait_until_answered_from(stack, release)


def _linked(store: Path, release: int) -> Manifest:
    """Put the first release's files there once more, by another id; answer their manifest.

    Links and no copies, so that the publisher's own work does not disturb.
    """
    first = Manifest.model_validate_json((store / manifest_path(RELEASE)).read_bytes())
    files = []
    for entry in first.files:
        path = entry.path.replace(f"/{RELEASE}/", f"/{release}/")
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(store / entry.path, store / path)
        files.append(entry.model_copy(update={"path": path}))
    return first.model_copy(update={"release": release, "files": tuple(files)})


def _wait_until_answered_from(stack: LocalStack, release: int) -> None:
    by = time.monotonic() + _SETTLED_SECONDS
    with grpc.insecure_channel(stack.addresses["recommender"].target) as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)
        request = pb2.GetCandidatesRequest(user_id="1", limit=1)
        while stub.GetCandidates(request, timeout=5).release != release:
            if time.monotonic() > by:
                raise LoadTestError(f"release {release} does not come into service; see the logs")
            time.sleep(_LOOK_SECONDS)
