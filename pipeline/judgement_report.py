"""What a judgement is reported by."""

from typing import Any, Final

from pipeline.estimates import Estimate
from pipeline.judging import CUTOFFS, Judgement
from reporting import Figure, Section, Table

__all__ = ["judgement_details", "judgement_figures", "judgement_sections"]

_SHOWN: Final = tuple(f"{name}@{k}" for name in ("HR", "NDCG", "MRR") for k in CUTOFFS)
_OF_SEGMENTS: Final = ("HR@10", "HR@20", "HR@200", "NDCG@10", "MRR@20")


def judgement_figures(judgement: Judgement) -> tuple[Figure, ...]:
    """List the release's metrics, then those of the baselines."""
    return tuple(
        Figure(f"{prefix}{name}", found.value, "share")
        for prefix, metrics in _rows(judgement).items()
        for name, found in metrics.items()
        if not prefix or name in _OF_SEGMENTS
    )


def judgement_sections(judgement: Judgement, protocol: str) -> tuple[Section, ...]:
    """Write the tables: all metrics with their confidence, and the segments."""
    metrics = Table(
        ("", *_SHOWN),
        tuple(
            (prefix.strip(": ") or "release", *(str(found[name]) for name in _SHOWN))
            for prefix, found in _rows(judgement).items()
        ),
    )
    segments = Table(
        ("", "questions", *_OF_SEGMENTS),
        tuple(
            (each.name, each.count, *(str(each.metrics[name]) for name in _OF_SEGMENTS))
            for each in judgement.segments
        ),
    )
    seen = "left out by exclusion in the search" if judgement.seen_removed else "kept"
    text = (
        f"{protocol}: {judgement.question_count} held-out views of {judgement.user_count} users, "
        "ranked among the whole catalogue by the exported model and its index; articles already "
        f"viewed are {seen}; {judgement.unknown_targets} targets that the index does not hold "
        "count as misses, ties count against us. ± is half a 95 % confidence interval; questions "
        "of one user are one draw."
    )
    if judgement.within_learnt:
        text += (
            f" {judgement.within_learnt} of the views asked for are no newer than the newest one "
            "that the release learnt from, and the manifest does not say whether they were held "
            "out of it: the figures hold for a release of the same views and --split last-view."
        )
    return (Section("Quality", text, (metrics,)), Section("Segments", "", (segments,)))


def judgement_details(judgement: Judgement) -> dict[str, Any]:
    """Write confidence and counts for machines."""
    return {
        "questions": judgement.question_count,
        "users": judgement.user_count,
        "unknown_targets": judgement.unknown_targets,
        "seen_removed": judgement.seen_removed,
        "within_learnt": judgement.within_learnt,
        "half_widths_95": {name: each.half_width for name, each in judgement.model.items()},
        "segments": {
            each.name: {
                "questions": each.count,
                **{name: found.value for name, found in each.metrics.items()},
            }
            for each in judgement.segments
        },
    }


def _rows(judgement: Judgement) -> dict[str, dict[str, Estimate]]:
    return {
        "": judgement.model,
        "transitions: ": judgement.transitions,
        "popularity: ": judgement.popularity,
    }
