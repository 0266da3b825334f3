"""`python -m pipeline evaluate`: a published release measured by a published protocol."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.collect import CollectedEvents, collect
from pipeline.errors import PipelineError, StepError
from pipeline.holdout import HoldOut, scan
from pipeline.judgement_report import judgement_details, judgement_figures, judgement_sections
from pipeline.judging import Judgement, judge
from pipeline.options import CollectOptions
from pipeline.protocols import Protocol, hold_out_of, questions
from pipeline.served import ServedRelease, manifest_of
from pipeline.steps import naming
from pipeline.window import Window
from releases.manifest import Manifest
from reporting import Report, print_report, write_report

__all__ = ["evaluate_command", "evaluate_release"]

_EVERY_VIEW = 1_000_000
"""Of a user: what was seen is left out however long ago that was."""

Seen = Literal["remove", "keep"]


def evaluate_command(  # noqa: PLR0913, PLR0917 - one parameter for each option
    events: Annotated[Path, typer.Option(help="CSV or Parquet, or a folder of daily files")],
    store: Annotated[str, typer.Option(help="Where the release is: a folder or any fsspec URL")],
    protocol: Annotated[Protocol, typer.Option(help="Which held-out views are asked for")],
    seen: Annotated[
        Seen | None,
        typer.Option(help="Articles already viewed; default: removed for leave-one-out alone"),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(help="Unix second that test views begin at; default: as --split time does"),
    ] = None,
    release: Annotated[int | None, typer.Option(help="Default: the newest usable one")] = None,
    report_dir: Annotated[Path, typer.Option(help="For report.json and report.html")] = Path(
        "build/evaluate"
    ),
) -> None:
    """Rank held-out views among the whole catalogue, by model and index as they are served.

    What is held out must not have been learnt: --split last-view for leave-one-out, --split time
    with the same second as its --split-since for the others. A release that learnt from what is
    asked for is refused; where an old manifest can't tell, the report of leave-one-out says so.
    """
    removed = protocol == "leave-one-out" if seen is None else seen == "remove"
    try:
        with naming("evaluate"):
            judgement = evaluate_release(
                events, store, protocol, since, release, remove_seen=removed
            )
            report = Report(
                target="evaluate",
                figures=judgement_figures(judgement),
                details={"protocol": protocol, **judgement_details(judgement)},
                sections=judgement_sections(judgement, protocol),
            )
            write_report(report, report_dir)
    except StepError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(1) from None
    print_report(report)


def evaluate_release(
    events: Path,
    store: str,
    protocol: Protocol,
    since: int | None = None,
    release: int | None = None,
    *,
    remove_seen: bool,
) -> Judgement:
    """Fetch a release and judge it. Raises PipelineError, of a release too that learnt from what
    the protocol holds out, and ReleaseError.
    """
    with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
        collected = _collected(events, Path(folder) / "collect")
        hold_out = hold_out_of(protocol, since, scan(collected.histories))
        asked = questions(collected.histories, protocol, hold_out)
        manifest = manifest_of(store, release)
        _refuse_learnt(manifest, hold_out)
        served = ServedRelease.fetch(store, manifest.release, Path(folder) / "release")
        return judge(served, asked, remove_seen=remove_seen)


def _refuse_learnt(manifest: Manifest, hold_out: HoldOut) -> None:
    """A last view that is older than others' may have been held out all the same: the manifest
    says whether, or did not yet.
    """
    last, since = manifest.data.last_event, hold_out.since
    if since is None and manifest.data.held_out == "time":
        raise PipelineError(
            f"release {manifest.release} was split by time and learnt from last views up to second "
            f"{last}: give a release of --split last-view, or --protocol time-split"
        )
    if since is not None and last >= since:
        raise PipelineError(
            f"release {manifest.release} learnt from views up to second {last}, and what is asked "
            f"for begins at {since}: give --since {last + 1} or later, or a release of "
            f"--split time --split-since {since}"
        )


def _collected(events: Path, directory: Path) -> CollectedEvents:
    window = Window(directory, release=1, since=None, until=int(time.time()))
    options = CollectOptions(
        max_user_views=_EVERY_VIEW, views=directory / "views.duckdb" if events.is_dir() else None
    )
    return collect(options, window, directory, events=events)
