"""`python -m tests.resume`: kills the workflow everywhere, repeats it, and compares the release.

One run is left alone. Another one, on the same data, is killed in the middle and at the end of
each step, and gone on with each time by the same command. QUICK=1: a small log and a few kills.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.progress import track

from pipeline.demo_data import fetch_movielens_100k
from pipeline.steps import STEPS
from releases.manifest import Manifest
from reporting import Figure, Report, Section, Table, print_report, write_report
from tests.resume.killing import LONG_ENOUGH_SECONDS, Killed, KillPoint, Workflow
from tests.support.events import write_events
from tests.support.program import run_program

_DIRECTORY: Final = Path("build") / "test-resume"
_CACHE: Final = Path("build") / "cache"
_QUICK_POINTS: Final = (KillPoint("preprocess", "middle"), KillPoint("train", "middle"))
_CLOSE: Final = 0.002


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, kill, repeat, compare; answer the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    directory = Path(given[0]) if given else _DIRECTORY
    quick = bool(os.environ.get("QUICK"))
    with tempfile.TemporaryDirectory(prefix="resume-") as place:
        report = _measure(Path(place), quick=quick)
    print_report(report)
    write_report(report, directory)
    return 0 if report.holds else 1


def _measure(place: Path, *, quick: bool) -> Report:
    options = _options(place, quick=quick)
    whole, killed = Workflow(place / "whole", options), Workflow(place / "killed", options)
    expected = whole.store.manifest(whole.finish())
    usual = whole.seconds()
    points = _QUICK_POINTS if quick else _points()
    kills = [killed.kill_at(point, usual[point.step]) for point in track(points, "killing")]
    before_last = kills[-1].ended
    found = killed.store.manifest(killed.finish())
    kept = {step: killed.ended().get(step) == at for step, at in before_last.items()}
    return Report(
        target="test-resume",
        figures=(*_figures(expected, found), *_kill_figures(kills, usual, kept)),
        sections=(_section(kills, usual),),
    )


def _options(place: Path, *, quick: bool) -> list[str]:
    events = write_events(place / "events.csv") if quick else fetch_movielens_100k(_CACHE)
    # Epochs and not seconds end the training, so that both runs learn equally long.
    training = ["--max-epochs", "4" if quick else "8", "--max-train-seconds", "900"]
    return ["--events", str(events), "--split", "last-view", *training]


def _points() -> list[KillPoint]:
    # Publishing is the end: after it there is nothing to go on with.
    points = [KillPoint(step, moment) for step in STEPS for moment in ("middle", "end")]
    return [point for point in points if point != KillPoint("publish", "end")]


def _figures(expected: Manifest, found: Manifest) -> list[Figure]:
    apart = max(
        abs(found.offline_metrics[name] - value) for name, value in expected.offline_metrics.items()
    )
    same_files = [file.path.split("/", 3)[-1] for file in expected.files] == [
        file.path.split("/", 3)[-1] for file in found.files
    ]
    return [
        Figure("same vocabulary", str(found.vocabulary_sha256 == expected.vocabulary_sha256),
               must="== True"),
        Figure("same data window", str(found.data == expected.data), must="== True"),
        Figure("same number of articles", str(found.article_count == expected.article_count),
               must="== True"),
        Figure("same files", str(same_files), must="== True"),
        Figure("largest difference of a metric", apart, must=f"<= {_CLOSE}"),
    ]  # fmt: skip


def _kill_figures(
    kills: list[Killed], usual: dict[str, float], kept: dict[str, bool]
) -> list[Figure]:
    in_the_middle = [kill for kill in kills if kill.point.moment == "middle"]
    long = [kill for kill in in_the_middle if usual[kill.point.step] >= LONG_ENOUGH_SECONDS]
    return [
        Figure("kills", len(kills)),
        Figure("kills in the middle of long steps that met them under way",
               sum(kill.was_under_way for kill in long) / max(1, len(long)), must="== 1"),
        Figure("steps run again that had ended", sum(not each for each in kept.values()),
               must="== 0"),
    ]  # fmt: skip


def _section(kills: list[Killed], usual: dict[str, float]) -> Section:
    rows = tuple(
        (
            str(kill.point),
            f"{usual[kill.point.step]:.2f}",
            "under way" if kill.was_under_way else "had ended",
            ", ".join(step for step in STEPS if step in kill.ended),
        )
        for kill in kills
    )
    headings = ("killed at", "usual seconds", "the step", "steps that had ended")
    return Section("Kills", content=(Table(headings, rows),))


if __name__ == "__main__":
    run_program(main)
