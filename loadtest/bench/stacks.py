"""The stacks that are compared, over one generated release."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from loadtest.bench.catalogue import RELEASE
from loadtest.errors import LoadTestError
from local_stack.calls import record_views
from local_stack.processes import Process, tied_to_this_process
from local_stack.stack import LocalStack, read_address, wait_for_serving
from local_stack.views import UserViews
from releases.layout import INDEX_FILE, Part, manifest_path, part_path
from releases.manifest import Manifest

__all__ = [
    "CACHE",
    "PLAIN_SETTINGS",
    "Prepared",
    "prepare",
    "running_stacks",
    "seconds_to_serving",
]

CACHE: Final = Path("build/cache")

PLAIN_SETTINGS: Final[Mapping[str, str]] = {
    "RECOMMENDER_MAX_BATCH": "1",
    "GRPC_EXPERIMENTS": "",
    **{
        f"{server}_GRPC_TRANSPORT": "grpcio"
        for server in ("RECOMMENDER", "FAISS_SERVER", "TF_SERVING")
    },
}
"""Settings of the plain chain: one call per stage and caller, `grpc.aio`, its default engine."""
_FIRST_VIEW_SECONDS: Final = 1_700_000_000
_SERVING_SECONDS: Final = 120.0
_MODULES: Final = {"recommender": "recommender", "faiss-server": "faiss_server"}


@dataclass(frozen=True)
class Prepared:
    """A store with one release, and what its users viewed."""

    store: Path
    histories: Sequence[Sequence[int]]
    """Newest first; user `n` is the n-th, from 1."""

    @property
    def manifest(self) -> Manifest:
        """The release's manifest."""
        return Manifest.model_validate_json((self.store / manifest_path(RELEASE)).read_bytes())

    @property
    def index_bytes(self) -> int:
        """The size of the index file."""
        return (self.store / part_path(Part.INDEX, RELEASE) / INDEX_FILE).stat().st_size

    def linked(self, store: Path) -> "Prepared":
        """Answer the same with a store of its own, for releases that are not to be kept."""
        shutil.copytree(self.store, store, copy_function=os.link)
        return Prepared(store, self.histories)

    @property
    def users(self) -> tuple[str, ...]:
        """The ids of all users."""
        return tuple(str(number) for number in range(1, len(self.histories) + 1))


def prepare(articles: int) -> Prepared:
    """Make the release of so many articles, or take it from the cache; raises LoadTestError."""
    directory = CACHE / f"bench-{articles}-{_recipe()}"
    command = [sys.executable, "-m", "loadtest.bench.making", str(directory), str(articles)]
    if subprocess.run(tied_to_this_process(command), check=False).returncode != 0:
        raise LoadTestError(f"no release of {articles} articles could be made; see above")
    with np.load(directory / "catalogue.npz") as arrays:
        return Prepared(directory / "store", arrays["histories"].tolist())


@contextmanager
def running_stacks(
    directory: Path, wanted: Mapping[str, tuple[Prepared, Mapping[str, str]]]
) -> Iterator[dict[str, LocalStack]]:
    """Run stacks side by side, each over a release and with settings of its own, and with every
    user's history recorded.
    """
    with ExitStack() as cleanup:
        stacks = {}
        for name, (prepared, settings) in wanted.items():
            stack = LocalStack(
                directory / name.replace(" ", "-"), str(prepared.store), settings=settings
            )
            stacks[name] = cleanup.enter_context(stack)
            stack.wait_until_serving()
            _record_histories(stack, prepared)
        yield stacks


def _record_histories(stack: LocalStack, prepared: Prepared) -> None:
    histories = zip(prepared.users, prepared.histories, strict=True)
    with grpc.insecure_channel(stack.addresses["recommender"].target) as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)
        record_views(stub, [_views(user, history) for user, history in histories])


def seconds_to_serving(stack: LocalStack, name: str, directory: Path) -> float:
    """Start one more server beside a running stack; answer after how long it serves.

    The release is on local disk already, as it is when a container of today's is started again.
    """
    ready_file = directory / "run" / f"{name}.json"
    ready_file.parent.mkdir(parents=True)
    prefix = f"{_MODULES[name].upper()}_"
    environment = {
        **stack.environments[name],
        f"{prefix}PORT": "0",
        f"{prefix}METRICS_PORT": "0",
        f"{prefix}READY_FILE": str(ready_file),
    }
    held = environment.get(f"{prefix}LOCAL_DIR")
    # Of one server each. Linked: a copy would still be on its way to the disk while it starts.
    if held is not None:
        environment[f"{prefix}LOCAL_DIR"] = shutil.copytree(
            held, str(directory / "held"), copy_function=os.link
        )
    command = [sys.executable, "-m", _MODULES[name]]
    started = time.monotonic()
    process = Process(name, command, directory / f"{name}.log", environment)
    try:
        process.wait_until(ready_file.exists, _SERVING_SECONDS)
        wait_for_serving(process, read_address(directory, name), _SERVING_SECONDS)
        return time.monotonic() - started
    finally:
        process.stop()


def _recipe() -> str:
    """Another recipe makes another release."""
    here = Path(__file__)
    own = (here.with_name(f"{name}.py") for name in ("catalogue", "making", "synthetic"))
    sources = (*own, files("faiss_server") / "spec.py")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _views(user: str, newest_first: Sequence[int]) -> UserViews:
    oldest_first = list(reversed(newest_first))
    times = range(_FIRST_VIEW_SECONDS, _FIRST_VIEW_SECONDS + len(oldest_first))
    return UserViews(user, oldest_first, list(times))
