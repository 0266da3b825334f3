"""Each system installed, filled and tuned below the cache, so that a second run only measures."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestError
from loadtest.peers.client import Client, Site, running_client
from loadtest.peers.environments import environment_of
from loadtest.peers.inputs import Inputs
from loadtest.peers.servers import Server, running_own_server, running_server
from loadtest.peers.systems import OURS, System
from loadtest.peers.tuning import Tried, Tuned, recalls, tune

__all__ = ["Choice", "Workplace", "built_seconds", "chosen", "serving", "site_of"]

_BUILT: Final = "built.json"
_CHOSEN: Final = "chosen.json"

Progress = Callable[[float], None]
_Found = tuple[NDArray[np.int64], float]
_IdsFor = Callable[[Path, int], _Found]


@dataclass(frozen=True)
class Workplace:
    """What all systems share."""

    cache: Path
    inputs: Inputs
    store: Path
    """With the release that this project's server serves."""
    scratch: Path
    """A folder of this run alone."""


@dataclass(frozen=True)
class Choice:
    """The effort that a system is asked with, and why."""

    effort: int
    suffices: bool
    recall: float
    """Of queries that it was not chosen on."""
    curve: tuple[tuple[int, float, float], ...]
    """Efforts tried, ascending, with recall and median ms of a question while it was tuned."""


def site_of(system: System, workplace: Workplace) -> Site:
    """Install a system where it is not, and answer where it is; raises UnavailableError."""
    environment = environment_of(
        _word(system.client.rpartition(".")[2]), system.packages, workplace.cache
    )
    directory = workplace.cache / f"{_word(system.name)}-{_recipe(system, workplace.inputs)}"
    return Site(system.client, environment, directory, 0, system.settings)


def built_seconds(system: System, site: Site, workplace: Workplace, progress: Progress) -> float:
    """Fill a system where that is not done; answer how long it took.

    Raises LoadTestError or StackError.
    """
    noted = site.directory / _BUILT
    if not noted.exists():
        shutil.rmtree(site.directory, ignore_errors=True)
        site.directory.mkdir(parents=True)
        inputs, cores = workplace.inputs, os.cpu_count() or 1
        with _running_with_client(system, site, workplace, cores) as client:
            seconds = client.build(inputs.vectors.resolve(), inputs.ids.resolve(), progress)
        _note(noted, {"seconds": seconds})
    return float(json.loads(noted.read_text())["seconds"])


@contextmanager
def serving(system: System, site: Site, workplace: Workplace) -> Iterator[Server | None]:
    """Run a system's server; None where it has none. Raises StackError."""
    if not system.is_networked:
        yield None
    elif system.name == OURS:
        with running_own_server(workplace.scratch / "own", workplace.store) as server:
            yield server
    else:
        with running_server(system, site) as server:
            yield server


def chosen(system: System, site: Site, workplace: Workplace, tried: Callable[[], None]) -> Choice:
    """Choose the effort where that is not done; `tried` is called after each.

    Raises LoadTestError or StackError.
    """
    noted = site.directory / _CHOSEN
    if noted.exists():
        return _choice_of(json.loads(noted.read_text()))
    inputs = workplace.inputs
    with ExitStack() as cleanup:
        ids_for = _asking(system, site, workplace, cleanup)

        def attempt(queries: Path, effort: int) -> Tried:
            found, milliseconds = ids_for(queries.resolve(), effort)
            tried()
            return Tried(recalls(found, inputs.nearest(queries)), milliseconds)

        tuned = tune(system.effort, lambda effort: attempt(inputs.tuning, effort))
        # The last one: the effort that a system keeps is the chosen one.
        held_out = attempt(inputs.queries, tuned.effort)
    recall = float(held_out.recalls.mean())
    choice = Choice(tuned.effort, tuned.suffices, recall, _curve(tuned))
    _note(noted, asdict(choice))
    return choice


def _asking(system: System, site: Site, workplace: Workplace, cleanup: ExitStack) -> _IdsFor:
    """Answer what asks all queries of a file with an effort."""
    scratch = workplace.scratch.resolve() / "found.npy"
    if not system.fixes_effort:
        client = cleanup.enter_context(_running_with_client(system, site, workplace))
        return lambda queries, effort: client.ids_for(queries, effort, scratch)

    def restarted(queries: Path, effort: int) -> _Found:
        with _running_with_client(system, site, workplace) as client:
            client.connect(1, effort, queries)
        with _running_with_client(system, site, workplace) as client:
            return client.ids_for(queries, effort, scratch)

    return restarted


@contextmanager
def _running_with_client(
    system: System, site: Site, workplace: Workplace, threads: int = 1
) -> Iterator[Client]:
    with serving(system, site, workplace) as server:
        at = site if server is None else site.at(server.port)
        with running_client(system.name, at, threads=threads) as client:
            yield client


def _curve(tuned: Tuned) -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (effort, float(each.recalls.mean()), each.median_ms)
        for effort, each in sorted(tuned.tried.items())
    )


def _choice_of(noted: Mapping[str, Any]) -> Choice:
    curve = tuple((effort, recall, ms) for effort, recall, ms in noted["curve"])
    return Choice(noted["effort"], noted["suffices"], noted["recall"], curve)


def _note(path: Path, document: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.rename(path)


def _recipe(system: System, inputs: Inputs) -> str:
    """Another recipe makes another index."""
    programs = [system.client] if system.server is None else [system.client, system.server]
    sources = (_source(program) for program in programs)
    parts = [
        inputs.directory.name,
        json.dumps(system.settings, sort_keys=True),
        json.dumps(asdict(system.effort)),
        json.dumps(system.packages),
        *(path.read_text() for path in sources),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _source(module: str) -> Path:
    """Answer the file of a module, without running it: it needs what is not installed here."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LoadTestError(f"there is no module {module}")
    return Path(spec.origin)


def _word(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")
