"""All steps on one machine, from events to a published release; a killed run is gone on with."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from pipeline._quiet import without_native_messages
from pipeline.collect import CollectedEvents
from pipeline.copy import discard_copy
from pipeline.errors import PipelineError, StepError
from pipeline.evaluate import Evaluation
from pipeline.gate import Decision
from pipeline.index import IndexedArticles, check_index_options
from pipeline.options import RunOptions
from pipeline.prepared import PreparedData
from pipeline.publish import PublishedRelease
from pipeline.records import has_ended
from pipeline.steps import REQUIRES, OnProgress, naming, run_step
from pipeline.window import Window
from pipeline.workdir import lock_workdir
from releases._atomic import replacing
from releases.manifest import Manifest

if TYPE_CHECKING:
    from pipeline.train import TrainedModel

__all__ = ["RunResult", "load_result", "run"]

_STATE_FILE: Final = "run.json"
_FORMAT: Final = 2
"""Of what steps leave for each other; raised when a step could not read an older one's folder."""
_OWN_PROCESS: Final = frozenset({"preprocess"})
"""TensorFlow Transform turns tf.keras into Keras 2 for the process that imports it."""
_AT_ONCE: Final = 2
_BIGQUERY_STAYS_SECONDS: Final = 3_600
"""How long what was collected there counts as the same: its tables have no stamp to compare."""


@dataclass(frozen=True)
class RunResult:
    """What a run made, step by step."""

    manifest: Manifest | None
    """Of the published release; None where the gate refused it."""
    release: int
    decision: Decision
    collected: CollectedEvents
    prepared: PreparedData
    trained: "TrainedModel"
    evaluation: Evaluation
    indexed: IndexedArticles
    seconds: Mapping[str, float]
    """How long each step took, in whichever attempt it ended."""


def run(
    options: RunOptions,
    workdir: Path,
    on_progress: OnProgress = lambda _step, _share, _message: None,
) -> RunResult:
    """Run every step and publish what the gate lets through.

    Each step has a folder below `workdir`, which no other run may use meanwhile. A run that was
    killed or failed is gone on with by calling this again with the same options: steps that ended
    are not run again, and a line on stderr says so. After a run that ended, with other options or
    sources, or an hour after a run from BigQuery began, everything begins anew. Raises StepError,
    whose message is `step: cause`; then nothing is published, and what was copied ahead waits,
    unseen, to be gone on with. When the release is refused the store is as it was.
    """
    with naming("index"):
        check_index_options(options)
    with naming("window"):
        lock = lock_workdir(workdir)
    with lock:
        with naming("window"):
            state = _State.open(workdir, options)
        _run_graph(options, state, on_progress)
        ended = {step: state.folder(step) for step in REQUIRES if has_ended(state.folder(step))}
        result = load_result(ended, state.seconds)
        with naming("publish"):
            state.end()
    return result


class _State:
    """What is known of the run in a folder: its options, and how long its steps took."""

    def __init__(self, workdir: Path, options: str, seconds: dict[str, float]) -> None:
        self.workdir = workdir
        self._options = options
        self.seconds = seconds
        self._writing = threading.Lock()

    @classmethod
    def open(cls, workdir: Path, options: RunOptions) -> "_State":
        """Join the run that was left in a folder, or begin one there."""
        fingerprint = _fingerprint(options)
        path = workdir / _STATE_FILE
        try:
            found = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            found = {}
        before = Window.load(workdir / "window") if has_ended(workdir / "window") else None
        same = found.get("options") == fingerprint and not found.get("ended")
        if same and (before is None or _is_up_to_date(options, before)):
            if before is not None:
                began = f"{datetime.fromtimestamp(before.until, UTC):%Y-%m-%d %H:%M} UTC"
                print(f"run: going on with the run of {began} in {workdir}", file=sys.stderr)
            return cls(workdir, fingerprint, found["seconds"])
        if before is not None:
            # Nobody goes on with what the run before may have copied into the store.
            discard_copy(options.store, before.release)
        for step in REQUIRES:
            shutil.rmtree(workdir / step, ignore_errors=True)
        state = cls(workdir, fingerprint, {})
        state.options_file.write_bytes(TypeAdapter(RunOptions).dump_json(options, indent=1))
        state._write(ended=False)
        return state

    @property
    def options_file(self) -> Path:
        """The options, for a step in a process of its own and for people."""
        return self.workdir / "options.json"

    def folder(self, step: str) -> Path:
        """Name the folder of a step."""
        return self.workdir / step

    def took(self, step: str, seconds: float) -> None:
        """Remember how long a step took that has ended."""
        with self._writing:
            self.seconds[step] = seconds
            self._write(ended=False)

    def end(self) -> None:
        """Say that nothing is left to go on with."""
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        document = {"options": self._options, "ended": ended, "seconds": self.seconds}
        with replacing(self.workdir / _STATE_FILE) as stream:
            stream.write(json.dumps(document, indent=1).encode() + b"\n")


def _is_up_to_date(options: RunOptions, before: Window) -> bool:
    """Tell whether what a run collected may be published: files that changed are seen otherwise."""
    return options.events is not None or time.time() - before.until < _BIGQUERY_STAYS_SECONDS


def _fingerprint(options: RunOptions) -> str:
    """Tell options apart, and the same options with other source files or folders of steps."""
    document = TypeAdapter(RunOptions).dump_json(options)
    files: list[Path] = []
    if options.events is not None:
        files += sorted(options.events.iterdir()) if options.events.is_dir() else [options.events]
    if options.items is not None:
        files.append(Path(options.items))  # of a URL it is no file, and has no stamp
    stamps = [(each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.exists()]
    return hashlib.sha256(document + repr((_FORMAT, stamps)).encode()).hexdigest()


def _run_graph(options: RunOptions, state: _State, on_progress: OnProgress) -> None:
    """Run each step once those that it requires have ended, two at once where that is possible."""
    graph = TopologicalSorter({step: set(requires) for step, requires in REQUIRES.items()})
    graph.prepare()
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="step") as threads:
        while graph.is_active():
            for step in graph.get_ready():
                running[threads.submit(_run_one, step, options, state, on_progress)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                graph.done(running.pop(each))
                each.result()


def _run_one(step: str, options: RunOptions, state: _State, on_progress: OnProgress) -> None:
    output = state.folder(step)
    if has_ended(output):
        on_progress(step, 1.0, "done before")
        return
    if step == "publish" and not _load_decision(state).lets_through:
        return
    inputs = {name: state.folder(name) for name in REQUIRES[step]}
    started = time.monotonic()
    if step in _OWN_PROCESS:
        on_progress(step, 0.0, "")
        with _loading_tensorflow():
            _run_in_own_process(step, state.options_file, inputs, output)
        on_progress(step, 1.0, "")
    else:
        run_step(step, options, inputs, output, on_progress)
    state.took(step, time.monotonic() - started)


@contextmanager
def _loading_tensorflow() -> Iterator[None]:
    """Load what the next step needs, which takes seconds, while another process works."""

    def load() -> None:
        # What is wrong with it is told by the step that needs it.
        with suppress(Exception), without_native_messages():
            import_module("pipeline.train")

    loading = threading.Thread(target=load)
    loading.start()
    try:
        yield
    finally:
        loading.join()  # a process must not end in the middle of it


def _run_in_own_process(step: str, options: Path, inputs: Mapping[str, Path], output: Path) -> None:
    """Run `python -m pipeline step`; what it says at its end is the cause of a failure."""
    command = [sys.executable, "-m", "pipeline", "step", step, "--output", str(output)]
    command += [f"--input={name}={folder}" for name, folder in inputs.items()]
    command += ["--options", str(options), "--ends-with-stdin"]
    with (
        tempfile.TemporaryFile("w+") as said,
        # Closed, by whatever ends this process, its standard input ends the step.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as child,
    ):
        code = child.wait()
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
    if code != 0:
        told = lines[-1].removeprefix(f"{step}: ") if lines else "it said nothing"
        if code < 0:
            told = f"its process was ended by signal {-code}"
        raise StepError(step, PipelineError(told))


def _load_decision(state: _State) -> Decision:
    return Decision.load(state.folder("gate"))


def load_result(folders: Mapping[str, Path], seconds: Mapping[str, float]) -> RunResult:
    """Read what the steps of a run left; `folders`: of each that has ended.

    Raises RecordError where one that is needed is missing.
    """
    from pipeline.train import TrainedModel  # loads TensorFlow

    def load(kind: type[Any], step: str) -> Any:
        return kind.load(folders[step])

    published = None
    if "publish" in folders:
        published = PublishedRelease.load(folders["publish"])
    return RunResult(
        manifest=None if published is None else published.manifest,
        release=load(Window, "window").release,
        decision=load(Decision, "gate"),
        collected=load(CollectedEvents, "collect"),
        prepared=load(PreparedData, "preprocess"),
        trained=load(TrainedModel, "train"),
        evaluation=load(Evaluation, "evaluate"),
        indexed=load(IndexedArticles, "index"),
        seconds=dict(seconds),
    )
