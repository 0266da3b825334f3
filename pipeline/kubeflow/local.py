"""The very pipeline of Kubeflow's on this machine, each task a process, by kfp's own runner."""

import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, TextIO

from kfp import local

from pipeline.errors import PipelineError, StepError
from pipeline.gate import Decision
from pipeline.index import check_index_options
from pipeline.kfp_pipeline import STEPS_AND_REPORT, workflow
from pipeline.kubeflow.parameters import parameters_of
from pipeline.options import RunOptions
from pipeline.records import RECORD_FILE
from pipeline.run import RunResult, load_result
from pipeline.steps import STEPS, naming
from pipeline.workdir import lock_workdir

__all__ = ["run_locally"]

_OUTPUT_OF: Final[Mapping[str, str]] = {
    "window": "window",
    "collect": "collected",
    "preprocess": "prepared",
    "train": "trained",
    "export": "exported",
    "evaluate": "evaluation",
    "index": "indexed",
    "copy": "copied",
    "gate": "decision",
    "publish": "published",
}
"""The artifact of each task that is the folder of its step."""

_IMAGES: Final = dict.fromkeys(STEPS_AND_REPORT, "python")
"""No container is started: a process of this Python is."""


def run_locally(options: RunOptions, workdir: Path) -> RunResult:
    """Run the pipeline below `workdir`/kfp, its log on stderr and in `workdir`/kfp.log.

    No other run may use `workdir` meanwhile. Everything begins anew, and a task that fails is not
    tried again. Raises StepError, whose message is `step: cause`; a release that the gate refuses
    is told in the result.
    """
    with naming("index"):
        check_index_options(options)
    with naming("window"):
        parameters = parameters_of(options)
        lock = lock_workdir(workdir)
    root, log = workdir / "kfp", workdir / "kfp.log"
    with lock, naming("kfp"):  # the runner's own folders and log
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        began = root.stat().st_mtime
        failure = _run(parameters, root, log)
        folders = _folders(root)
        if failure is not None and not _is_refused(folders):
            raise _cause(log, failure)
        return load_result(folders, _seconds(folders, began))


def _run(parameters: Mapping[str, Any], root: Path, log: Path) -> RuntimeError | None:
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    with log.open("w") as stream, redirect_stdout(_Tee(stream, sys.stderr)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kfp's own code
                workflow(_IMAGES, with_retries=False)(**parameters)
        except RuntimeError as failure:
            return failure
    return None


class _Tee:
    """Writes to two streams."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()


def _folders(root: Path) -> dict[str, Path]:
    """Find where the runner put the folder of each step that has ended."""
    return {
        step: record.parent
        for step, output in _OUTPUT_OF.items()
        for record in root.glob(f"**/{step}/{output}/{RECORD_FILE}")
    }


def _is_refused(folders: Mapping[str, Path]) -> bool:
    return "gate" in folders and not Decision.load(folders["gate"]).lets_through


def _seconds(folders: Mapping[str, Path], began: float) -> dict[str, float]:
    """Tell how long each task took: the runner starts one after another, and records come last."""
    seconds, before = {}, began
    ends = {step: (folder / RECORD_FILE).stat().st_mtime for step, folder in folders.items()}
    for step in sorted(ends, key=lambda step: ends[step]):
        seconds[step] = ends[step] - before
        before = ends[step]
    return seconds


def _cause(log: Path, failure: RuntimeError) -> StepError:
    """Find what the task that failed said at its end; kfp names artifacts in the same form."""
    said = re.findall(
        rf"^\s*({'|'.join(STEPS)}): (?!\w+\( name=)(.+)$", log.read_text(), re.MULTILINE
    )
    if not said:
        return StepError("kfp", PipelineError(f"{failure} See {log}"))
    step, cause = said[-1]
    return StepError(step, PipelineError(cause))
