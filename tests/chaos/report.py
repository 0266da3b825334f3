"""The figures of the whole suite, with what they must be."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from reporting import Figure, Report, Section, Table
from tests.chaos.outcome import Outcome
from tests.chaos.overload import Overload
from tests.chaos.stage import Rule

__all__ = ["chaos_report"]

_REQUESTS = 100_000


def chaos_report(
    outcomes: Sequence[Outcome],
    spoilt: Sequence[Outcome],
    rate: float,
    overload: Overload | None,
    *,
    complete: bool,
    quick: bool,
) -> Report:
    """Sum up; only a complete run of the full form is judged by the number of its requests.

    `spoilt` are tries that were played again: they are shown, and not counted.
    """
    figures = [*_figures(outcomes, rate, complete=complete)] if outcomes else []
    figures.append(Figure("tries_in_a_standstill", len(spoilt)))
    if overload is not None:
        figures += _overload_figures(overload, quick=quick)
    return Report(
        "chaos",
        tuple(figures),
        {
            "scenarios": [_document(outcome) for outcome in outcomes],
            "spoilt": [_document(outcome) for outcome in spoilt],
            "overload": None if overload is None else asdict(overload),
        },
        (
            _scenario_section(outcomes),
            _spoilt_section(spoilt),
            _latency_section(outcomes),
            *(_split_section(outcome) for outcome in outcomes if outcome.split),
            _problem_section(outcomes),
        ),
    )


def _figures(outcomes: Sequence[Outcome], rate: float, *, complete: bool) -> Iterable[Figure]:
    requests = sum(one.requests for one in outcomes)
    checked = sum(one.checked for one in outcomes)
    yield Figure("requests", requests, "", f">= {_REQUESTS}" if complete else None)
    yield Figure("requests_per_second", rate, "1/s")
    yield Figure("recomputed_share", round(checked / max(requests, 1), 4), "", ">= 0.05")
    yield Figure("mixed_answers", sum(one.wrong for one in outcomes), "", "== 0")
    yield from _healthy_figures([one for one in outcomes if one.rule is Rule.ONE_HEALTHY])
    smooth = [one for one in outcomes if one.rule is Rule.SMOOTH]
    yield Figure("failed_in_swaps", sum(one.failed for one in smooth), "", "== 0")
    yield Figure("degraded_in_swaps", sum(one.degraded for one in smooth), "", "== 0")
    yield Figure("hangs", sum(one.hung for one in outcomes), "", "== 0")
    yield Figure("crashes", sum(len(one.crashes) for one in outcomes), "", "== 0")
    problems = sum(len(one.problems) for one in outcomes)
    yield Figure("other_problems", problems, "", "== 0")
    holding = sum(one.holds for one in outcomes)
    yield Figure("scenarios_that_hold", holding, "", f"== {len(outcomes)}")


def _healthy_figures(outcomes: Sequence[Outcome]) -> Iterable[Figure]:
    if not outcomes:
        return
    later = sum(one.after_grace for one in outcomes)
    personalized = sum(one.after_grace_personalized for one in outcomes)
    judged = sum(one.judged for one in outcomes)
    yield Figure("personalized_from_1_s_after_a_fault", _share(personalized, later), "", ">= 0.99")
    in_time = sum(one.in_time for one in outcomes)
    yield Figure("answered_in_deadline", _share(in_time, judged), "", ">= 0.999")
    handed = sum(one.handed for one in outcomes)
    yield Figure("lost_with_a_dying_recommender", handed, "requests")
    seconds = [one.full_service_seconds for one in outcomes]
    known = [value for value in seconds if value is not None]
    yield Figure("slowest_return_to_full_service", max(known, default=-1.0), "s", aim="<= 1")


def _overload_figures(overload: Overload, *, quick: bool) -> Iterable[Figure]:
    yield Figure("sustained_rate_on_one_core", overload.sustained_rate, "1/s")
    yield Figure("best_goodput_on_one_core", overload.best_goodput, "1/s")
    must = None if quick else ">= 0.8"
    yield Figure("goodput_at_three_times_over_best", overload.ratio, "", must)
    yield Figure("busy_at_the_best_rate", overload.busy_at_best)
    yield Figure("busy_at_three_times", overload.busy_at_three_times)
    yield Figure("health_checks_failed_under_overload", overload.health_failures, "", "== 0")
    must = None if quick else "<= 1.1"
    yield Figure("memory_growth_under_overload", overload.memory_growth, "", must)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 0.0


def _document(outcome: Outcome) -> dict[str, Any]:
    extra = {
        "failed": outcome.failed,
        "degraded": outcome.degraded,
        "holds": outcome.holds,
        "rule": outcome.rule.value,
    }
    return asdict(outcome) | extra


def _scenario_section(outcomes: Sequence[Outcome]) -> Section:
    headings = (
        "scenario", "must be", "holds", "requests", "by source", "errors", "lost with it",
        "wrong", "personalized after 1 s", "full service again, s",
    )  # fmt: skip
    rows = tuple(
        (
            one.name,
            one.rule.value,
            "yes" if one.holds else "no",
            one.requests,
            _counts(one.sources),
            _counts(one.errors),
            one.handed,
            f"{one.wrong} of {one.checked}",
            f"{one.after_grace_personalized / one.after_grace:.2%}" if one.after_grace else "",
            "" if one.full_service_seconds is None else one.full_service_seconds,
        )
        for one in outcomes
    )
    return Section("Scenarios", "", (Table(headings, rows),))


def _spoilt_section(spoilt: Sequence[Outcome]) -> Section:
    headings = ("scenario", "requests", "failed", "degraded", "processor away, ms")
    rows = tuple(
        (
            one.name,
            one.requests,
            one.failed,
            one.degraded,
            ", ".join(map(str, one.standstills_ms)),
        )
        for one in spoilt
    )
    text = (
        "Each request that failed or was degraded met a time in which the host took a processor "
        "away from the machine, as its kernel says. Played again; the figures are of that."
    )
    return Section(
        "Tries that the machine stood still in", text if rows else "None.", (Table(headings, rows),)
    )


def _latency_section(outcomes: Sequence[Outcome]) -> Section:
    headings = ("scenario", "p50 ms", "p99 ms", "p50 in swap", "p99 in swap", "late sends")
    rows = tuple(
        (
            one.name,
            *(
                "" if value is None else value
                for value in (one.p50_ms, one.p99_ms, one.swap_p50_ms, one.swap_p99_ms)
            ),
            one.late_sends,
        )
        for one in outcomes
    )
    text = (
        "From the moment a request was due. Late sends: requests that the load process itself "
        "sent more than 10 ms late, because the machine was busy."
    )
    return Section("Latency", text, (Table(headings, rows),))


def _split_section(outcome: Outcome) -> Section:
    headings = ("release", "users", "answers", "by source", "p50 ms", "p99 ms")
    rows = tuple(
        (
            one.release,
            one.users,
            one.requests,
            _counts(one.sources),
            "" if one.p50_ms is None else one.p50_ms,
            "" if one.p99_ms is None else one.p99_ms,
        )
        for one in outcome.split
    )
    overlap = outcome.figures.get("split_overlap")
    text = "While users were divided between two releases."
    if overlap is not None:
        text += f" Asked for candidates of both, the same users got {overlap:.1%} of them alike."
    return Section("Split: two releases compared", text, (Table(headings, rows),))


def _problem_section(outcomes: Sequence[Outcome]) -> Section:
    found: Counter[tuple[str, str]] = Counter(
        (one.name, problem) for one in outcomes for problem in (*one.problems, *one.crashes)
    )
    rows = tuple((name, problem) for name, problem in found)
    return Section("Problems", "" if rows else "None.", (Table(("scenario", "problem"), rows),))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
