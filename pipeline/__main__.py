"""`python -m pipeline run --events FILE`: learn and publish a release."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# Read when TensorFlow is imported, which a run does after the events have been read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pipeline.demo_data import fetch_movielens_100k
from pipeline.errors import DemoDataError, StepError, first_fault
from pipeline.evaluate_command import evaluate_command
from pipeline.holdout import Split
from pipeline.kubeflow.command import compile_command, deploy_command, local_runner
from pipeline.options import (
    BigQueryOptions,
    CollectOptions,
    GateOptions,
    ModelKind,
    PreprocessOptions,
    RunOptions,
    TrainOptions,
)
from pipeline.report import report_run
from pipeline.rollout_command import rollout_command
from pipeline.run import RunResult, run
from pipeline.steps import REQUIRES, STEPS, run_step
from pipeline.vertex import vertex_job_command
from reporting import print_report, write_report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


app.command("rollout")(rollout_command)
app.command("evaluate")(evaluate_command)
app.command("compile")(compile_command)
app.command("deploy")(deploy_command)
app.command("vertex-job")(vertex_job_command)


@app.callback()
def pipeline() -> None:
    """Learn a release from events."""


@app.command("run")
def run_command(  # noqa: PLR0913, PLR0917 - one parameter for each option
    store: Annotated[str, typer.Option(help="Where to publish: a folder or any fsspec URL")],
    events: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet: user_id,item_id,timestamp[,region_id]; or a folder of daily ones"
        ),
    ] = None,
    bigquery: Annotated[
        Path | None, typer.Option(help="Instead of --events: JSON of BigQueryOptions")
    ] = None,
    views: Annotated[
        Path | None, typer.Option(help="DuckDB file of the views of daily events; default: beside")
    ] = None,
    look_back_days: Annotated[
        int, typer.Option(help="Days read again for events that came late")
    ] = CollectOptions.look_back_days,
    max_user_views: Annotated[
        int, typer.Option(help="Newest views of a user that count")
    ] = CollectOptions.max_user_views,
    popular_half_life_days: Annotated[
        float | None,
        typer.Option(
            help="A view counts half after it, in popular lists; default: a 16th of the log"
        ),
    ] = None,
    event_name: Annotated[
        str, typer.Option(help="Of a view in Firebase's log")
    ] = CollectOptions.event_name,
    demo_data: Annotated[
        Path | None,
        typer.Option(help="Instead of --events: fetch MovieLens 100k into this folder"),
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="CSV or Parquet, a path or a URL: item_id,title,...")
    ] = None,
    workdir: Annotated[Path, typer.Option(help="For the files of the steps")] = Path(
        "build/pipeline"
    ),
    report_dir: Annotated[Path | None, typer.Option(help="Default: the workdir")] = None,
    release: Annotated[int | None, typer.Option(help="Default: the second now")] = None,
    model: Annotated[ModelKind | None, typer.Option(help="Default: by the amount of data")] = None,
    max_train_seconds: float = TrainOptions.max_train_seconds,
    max_epochs: Annotated[
        int | None, typer.Option(help="Default: by model and amount of data")
    ] = None,
    dimension: int = TrainOptions.dimension,
    hidden_units: Annotated[
        list[int] | None, typer.Option(help="Of a layer below the last; default: 128")
    ] = None,
    learning_rate: float = TrainOptions.learning_rate,
    batch_size: Annotated[
        int | None, typer.Option(help="Default: by the number of examples")
    ] = None,
    min_article_views: int = PreprocessOptions.min_article_views,
    min_user_views: int = PreprocessOptions.min_user_views,
    split: Annotated[
        Split, typer.Option(help="Held out: what came last, or the last view of each user")
    ] = PreprocessOptions.split,
    split_since: Annotated[
        int | None, typer.Option(help="Unix second that held-out views begin at; default: late")
    ] = None,
    max_test_users: int = PreprocessOptions.max_test_users,
    window_days: Annotated[
        float | None, typer.Option(help="How far back events count; default: all")
    ] = None,
    beam: Annotated[
        list[str] | None, typer.Option(help="An option of Beam's, such as --runner=DataflowRunner")
    ] = None,
    popularity_debias: Annotated[
        float, typer.Option(help="0 to 1: how much popularity lowers an article's score")
    ] = RunOptions.popularity_debias,
    recall_target: float = RunOptions.recall_target,
    index_spec: Annotated[
        str, typer.Option(help="A faiss factory string such as IVF4096,SQ8")
    ] = RunOptions.index_spec,
    index_memory_gib: Annotated[
        float | None, typer.Option(help="What a faiss server may take for one release")
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(help="HR or NDCG below the release in service, same users"),
    ] = GateOptions.max_drop,
    max_fall: Annotated[
        float,
        typer.Option(help="HR or NDCG below what that release had when it came"),
    ] = GateOptions.max_fall,
    max_shrink: Annotated[
        float, typer.Option(help="Articles below the release in service")
    ] = GateOptions.max_shrink,
    max_age_hours: Annotated[
        float | None, typer.Option(help="Of the newest event; default: any age")
    ] = None,
    publish_anyway: Annotated[
        bool, typer.Option("--publish-anyway", help="Publish what does not pass the gate")
    ] = False,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Evaluate with articles already viewed")
    ] = False,
    seed: int = TrainOptions.seed,
    kfp_local: Annotated[
        bool, typer.Option("--kfp-local", help="By the pipeline of Kubeflow's, each task a process")
    ] = False,
) -> None:
    """Collect, preprocess, train, export, evaluate, index, copy, judge and publish.

    A run that was killed is gone on with by the same command (with --kfp-local: begun anew).
    """
    run_it = local_runner() if kfp_local else _run_with_progress
    started = time.monotonic()
    try:
        with _judging():
            options = RunOptions(
                events=_events(events, demo_data, bigquery),
                items=items,
                store=store,
                window_days=window_days,
                release=release,
                collect=CollectOptions(
                    views=views,
                    bigquery=None if bigquery is None else _bigquery(bigquery),
                    look_back_days=look_back_days,
                    max_user_views=max_user_views,
                    popular_half_life_days=popular_half_life_days,
                    event_name=event_name,
                ),
                preprocess=PreprocessOptions(
                    min_article_views=min_article_views,
                    min_user_views=min_user_views,
                    split=split,
                    split_since=split_since,
                    max_test_users=max_test_users,
                    beam_arguments=tuple(beam or ()),
                ),
                train=TrainOptions(
                    model=model,
                    dimension=dimension,
                    hidden_units=TrainOptions.hidden_units
                    if hidden_units is None
                    else tuple(hidden_units),
                    learning_rate=learning_rate,
                    batch_size=batch_size,
                    max_train_seconds=max_train_seconds,
                    max_epochs=max_epochs,
                    seed=seed,
                ),
                gate=GateOptions(
                    max_drop=max_drop,
                    max_fall=max_fall,
                    max_shrink=max_shrink,
                    max_age_hours=max_age_hours,
                    min_recall=recall_target,
                    publish_anyway=publish_anyway,
                ),
                popularity_debias=popularity_debias,
                remove_seen=not keep_seen,
                recall_target=recall_target,
                index_spec=index_spec,
                index_memory_gib=index_memory_gib,
            )
        with _reporting_to(report_dir or workdir) as directory:
            # Now rather than after the training.
            directory.mkdir(parents=True, exist_ok=True)
        result = run_it(options, workdir)
        report = report_run(result, time.monotonic() - started)
        with _reporting_to(report_dir or workdir) as directory:
            write_report(report, directory)
    except StepError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(1) from None
    print_report(report)
    if result.manifest is None:
        print(f"gate: release {result.release} is not published: "
              f"{'; '.join(result.decision.reasons)}", file=sys.stderr)  # fmt: skip
        raise typer.Exit(1)


@app.command("step")
def step_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STEPS)}")],
    options: Annotated[typer.FileText, typer.Option(help="The run's options as JSON; - for stdin")],
    output: Annotated[Path, typer.Option(help="The folder that the step writes")],
    folders: Annotated[
        list[str] | None, typer.Option("--input", help="STEP=FOLDER, for each step it reads")
    ] = None,
    ends_with_stdin: Annotated[bool, typer.Option("--ends-with-stdin", hidden=True)] = False,
) -> None:
    """Run a single step, in a process of its own."""
    if ends_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    if name not in REQUIRES:
        raise typer.BadParameter(f"{name} is no step; the steps are {', '.join(STEPS)}")
    inputs = {
        step: Path(folder) for step, _, folder in (one.partition("=") for one in folders or ())
    }
    missing = [step for step in REQUIRES[name] if step not in inputs]
    if missing:
        raise typer.BadParameter(f"{name} also reads --input {missing[0]}=FOLDER")
    try:
        told = TypeAdapter(RunOptions).validate_json(options.read())
    except ValidationError as cause:
        raise typer.BadParameter(f"--options: {first_fault(cause)}") from None
    try:
        run_step(name, told, inputs, output)
    except StepError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(1) from None


def _end_with_stdin() -> None:
    """End this process with the one that started it, which holds the other end open."""
    while os.read(0, 1):
        pass
    os._exit(1)


@contextmanager
def _reporting_to(directory: Path) -> Iterator[Path]:
    try:
        yield directory
    except OSError as cause:
        told = OSError(f"nothing can be written into {directory}: {cause.strerror}")
        raise StepError("report", told) from cause


@contextmanager
def _judging() -> Iterator[None]:
    """The options know their bounds."""
    try:
        yield
    except ValidationError as cause:
        raise typer.BadParameter(first_fault(cause)) from None


def _events(events: Path | None, demo_data: Path | None, bigquery: Path | None) -> Path | None:
    if [events, demo_data, bigquery].count(None) != 2:
        raise typer.BadParameter("give one of --events, --demo-data and --bigquery")
    if demo_data is None:
        return events
    try:
        return fetch_movielens_100k(demo_data)
    except (DemoDataError, OSError) as cause:
        raise StepError("collect", cause) from cause


def _bigquery(path: Path) -> BigQueryOptions:
    try:
        return TypeAdapter(BigQueryOptions).validate_json(path.read_bytes())
    except OSError as cause:
        raise typer.BadParameter(f"--bigquery {path}: {cause.strerror}") from None
    except ValidationError as cause:
        raise typer.BadParameter(f"--bigquery {path}: {first_fault(cause)}") from None


def _run_with_progress(options: RunOptions, workdir: Path) -> RunResult:
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
    )
    console = Console(stderr=True)
    # Transient: a run that fails leaves nothing on the terminal but the line that says why.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        tasks = {step: progress.add_task(step, total=1, start=False, message="") for step in STEPS}

        def on_progress(step: str, share: float, message: str) -> None:
            if share == 0:
                progress.start_task(tasks[step])
            progress.update(tasks[step], completed=share)
            if message:
                progress.update(tasks[step], message=message)

        return run(options, workdir, on_progress)


if __name__ == "__main__":
    app()
