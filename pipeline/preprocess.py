"""The third step: histories become vocabularies, training examples and a sample to ask."""

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline._quiet import without_native_messages
from pipeline.collect import CollectedEvents
from pipeline.errors import TooLittleDataError
from pipeline.holdout import HoldOut, Scan, choose_hold_out, scan
from pipeline.options import PreprocessOptions
from pipeline.prepared import PreparedData

if TYPE_CHECKING:
    from pipeline.beam_steps import Counts

__all__ = ["preprocess"]

_MOST_VALIDATED_USERS: Final = 5_000
_VALIDATED_SHARE: Final = 0.2
_SAMPLED_OTHERS: Final = 2_000


def preprocess(
    collected: CollectedEvents, options: PreprocessOptions, directory: Path
) -> PreparedData:
    """Hold out views to ask for, index articles seen often enough, and cut examples.

    Runs TensorFlow Transform on Beam, where `options.beam_arguments` say. Raises
    TooLittleDataError when nothing can be learnt, or nobody could be asked whether it was.
    """
    with without_native_messages():
        # Turns tf.keras into Keras 2: only the process of this step loads it.
        from pipeline.beam_steps import Plan, make_examples  # noqa: PLC0415

    for name in ("transform", "examples", "sequences"):
        shutil.rmtree(directory / name, ignore_errors=True)
    seen = scan(collected.histories)
    hold_out = choose_hold_out(options.split, seen, options.max_test_users, options.split_since)
    tested = _tested_count(seen, hold_out)
    _refuse_idle(hold_out, tested, collected)
    plan = Plan(
        hold_out=hold_out,
        min_article_views=options.min_article_views,
        min_user_views=options.min_user_views,
        validated_share=_share_to_validate(collected),
        tested_share=min(1.0, options.max_test_users / max(1, tested)),
        others_share=min(1.0, _SAMPLED_OTHERS / seen.user_count),
    )
    counts = make_examples(collected.histories, plan, directory, options.beam_arguments)
    if not counts.train:
        counts = _validation_as_training(counts, directory / "examples")
    shutil.rmtree(directory / "beam", ignore_errors=True)
    (directory / "statistics.json").write_text(json.dumps(asdict(counts), indent=1) + "\n")
    prepared = PreparedData(
        directory=directory,
        article_count=0,
        region_count=0,
        user_count=counts.users,
        view_count=counts.views,
        example_count=counts.train,
        validation_count=counts.validation,
        step_count=counts.steps,
        test_user_count=tested,
        first_event=counts.first_event,
        last_event=counts.last_event,
        cut_off=collected.last_event,
        split=hold_out.split,
        split_since=hold_out.since,
    )
    return _with_vocabularies(prepared, options)


def _tested_count(seen: Scan, hold_out: HoldOut) -> int:
    tested = seen.view_counts >= 2
    if hold_out.since is not None:
        tested &= seen.last_viewed_at >= hold_out.since
    return int(tested.sum())


def _refuse_idle(hold_out: HoldOut, tested: int, collected: CollectedEvents) -> None:
    """Refuse a moment that leaves nobody to ask, or nothing to learn from."""
    if hold_out.since is None or (tested and collected.first_event < hold_out.since):
        return
    since, first, last = (
        f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC ({at})"
        for at in (hold_out.since, collected.first_event, collected.last_event)
    )
    missing = "no view comes before it" if tested else "no user of two views or more has one since"
    raise TooLittleDataError(
        f"views are held out from {since} on, and {missing}: the first view is of {first}, the "
        f"last of {last} (give --split last-view, another --split-since, or more events)"
    )


def _share_to_validate(collected: CollectedEvents) -> float:
    """So many users that validation is quick, and never more than a fifth of all views."""
    users = collected.user_count
    most = min(_MOST_VALIDATED_USERS, int(collected.event_count * _VALIDATED_SHARE))
    return min(1.0, most / users)


def _validation_as_training(counts: "Counts", examples: Path) -> "Counts":
    """Learn from the few there are, where all of them were drawn for validation."""
    for file in [*examples.glob("train-*")]:
        file.unlink()
    for file in [*examples.glob("validation-*")]:
        file.rename(file.with_name(file.name.replace("validation", "train")))
    return replace(counts, train=counts.validation, validation=0)


def _with_vocabularies(prepared: PreparedData, options: PreprocessOptions) -> PreparedData:
    """Count what TensorFlow Transform found. Raises TooLittleDataError."""
    articles = len(prepared.graph.articles().ids)
    if articles < 2:
        raise TooLittleDataError(
            f"{articles} articles have at least {options.min_article_views} views "
            "besides those that are held out; at least 2 are needed "
            "(give more events or lower --min-article-views)"
        )
    if prepared.example_count < 1:
        raise TooLittleDataError(
            "no training example is left: no user has enough views besides those that are held "
            "out (give more events, or another --split)"
        )
    regions = len(prepared.graph.regions().ids)
    return replace(prepared, article_count=articles, region_count=regions)
