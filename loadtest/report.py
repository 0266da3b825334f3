"""Measurements of one stack as a report: figures, latency over rate, percentiles, stages."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from loadtest.latencies import Latencies
from loadtest.measurement import Measurement
from loadtest.plan import LoadPlan
from reporting import Figure, LineChart, Report, Section, Series, Table

__all__ = ["PERCENTILES", "label_of", "report_measurements", "summary_of"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)

# Nines, so that the tail is as wide in the plot as the body.
_PLOTTED = (10.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)


def label_of(plan: LoadPlan) -> str:
    """Name a measurement by what was asked."""
    return f"{plan.rate:g}/s" if plan.rate is not None else f"{plan.clients} clients"


def report_measurements(
    measurements: Sequence[Measurement],
    *,
    max_rate: float | None = None,
    budget_ms: float,
) -> Report:
    """Put measurements of one stack together; nothing in it is a must."""
    figures = [figure for one in measurements for figure in _figures(one)]
    if max_rate is not None:
        name = f"max_rate_with_p99_within_{budget_ms:g}_ms"
        figures.append(Figure(name, max_rate, "requests/s"))
    return Report(
        target="loadtest",
        figures=tuple(figures),
        details={"measurements": [summary_of(one) for one in measurements]},
        sections=_sections(measurements),
    )


def summary_of(measurement: Measurement) -> dict[str, Any]:
    """Answer everything that was measured, as JSON takes it; times in ms."""
    plan = measurement.plan
    return {
        "asked": label_of(measurement.plan),
        "seconds": measurement.seconds,
        "requests": measurement.requests,
        "answers_per_second": measurement.per_second,
        "codes": dict(measurement.codes),
        "sources": dict(measurement.sources),
        "releases": dict(measurement.releases),
        "latency_ms": _percentiles(measurement.latencies),
        "sent_late_ms": _percentiles(measurement.lags),
        "stages_ms": {name: _percentiles(times) for name, times in measurement.stages.items()},
        "cpu_ms_per_request": measurement.cpu_ms_per_request,
        "processes": _processes(measurement),
        "stolen_share": measurement.stolen_share,
        "deadline_seconds": plan.deadline_seconds,
        "warmup_seconds": plan.warmup_seconds,
        "limit": plan.limit,
        "histogram": measurement.latencies.encode(),
    }


def _figures(measurement: Measurement) -> list[Figure]:
    label = label_of(measurement.plan)
    latencies = measurement.latencies
    figures = [
        Figure(f"p50 at {label}", latencies.percentile_ms(50), "ms"),
        Figure(f"p99 at {label}", latencies.percentile_ms(99), "ms"),
        Figure(f"answers at {label}", measurement.per_second, "1/s"),
    ]
    if measurement.cpu_ms_per_request is not None:
        figures.append(Figure(f"CPU at {label}", measurement.cpu_ms_per_request, "ms/request"))
    failures = measurement.requests - measurement.answered
    if failures:
        figures.append(Figure(f"failed at {label}", failures, "requests"))
    return figures


def _percentiles(latencies: Latencies) -> dict[str, float]:
    named = {f"p{percentile:g}": latencies.percentile_ms(percentile) for percentile in PERCENTILES}
    return {"mean": latencies.mean_ms(), **named}


def _processes(measurement: Measurement) -> dict[str, dict[str, float]]:
    if measurement.usage is None:
        return {}
    answers = max(measurement.answered, 1)
    return {
        name: {
            "cpu_ms_per_request": 1000 * used.cpu_seconds / answers,
            "context_switches_per_request": used.context_switches / answers,
            "memory_mib": used.memory_mib,
        }
        for name, used in measurement.usage.by_process.items()
    }


def _sections(measurements: Sequence[Measurement]) -> tuple[Section, ...]:
    return (
        Section(
            "Latency over rate",
            "From the moment at which a request was due to its answer.",
            (*_over_rate(measurements), _latency_table(measurements)),
        ),
        Section(
            "Percentiles",
            "The x axis counts nines: 1 is p90, 2 is p99, 3 is p99.9.",
            (percentile_plot({label_of(one.plan): one.latencies for one in measurements}),),
        ),
        Section(
            "Stages",
            "As the recommender measured them; the rest is its own work, the network and queues.",
            (_stage_table(measurements),),
        ),
        Section("What came back", "", (_answer_table(measurements),)),
        *_usage_section(measurements),
    )


def percentile_plot(by_name: Mapping[str, Latencies]) -> LineChart:
    """Draw percentiles of several measurements over their nines."""
    return LineChart(
        "nines",
        "ms",
        tuple(
            Series(
                name,
                tuple(
                    (-log10(1 - percentile / 100), latencies.percentile_ms(percentile))
                    for percentile in _PLOTTED
                ),
            )
            for name, latencies in by_name.items()
        ),
    )


def _over_rate(measurements: Sequence[Measurement]) -> tuple[LineChart, ...]:
    by_rate = sorted(
        (one.plan.rate, one.latencies) for one in measurements if one.plan.rate is not None
    )
    if len(by_rate) < 2:
        return ()
    series = tuple(
        Series(
            f"p{percentile:g}",
            tuple((rate, latencies.percentile_ms(percentile)) for rate, latencies in by_rate),
        )
        for percentile in (50.0, 99.0)
    )
    return (LineChart("requests/s", "ms", series),)


def _latency_table(measurements: Sequence[Measurement]) -> Table:
    return Table(
        ("asked", "answers/s", *(f"p{percentile:g} ms" for percentile in PERCENTILES)),
        tuple(
            (
                label_of(one.plan),
                one.per_second,
                *(one.latencies.percentile_ms(percentile) for percentile in PERCENTILES),
            )
            for one in measurements
        ),
    )


def _answer_table(measurements: Sequence[Measurement]) -> Table:
    return Table(
        (
            "asked",
            "requests",
            "codes",
            "answers by source",
            "sent late, p99 ms",
            "taken by the host",
        ),
        tuple(
            (
                label_of(one.plan),
                one.requests,
                _counts(one.codes),
                _counts(one.sources),
                one.lags.percentile_ms(99),
                f"{one.stolen_share:.1%}",
            )
            for one in measurements
        ),
    )


def _stage_table(measurements: Sequence[Measurement]) -> Table:
    stages = sorted({stage for one in measurements for stage in one.stages})
    return Table(
        ("asked", *(f"{stage}, p50 / p99 ms" for stage in stages)),
        tuple(
            (label_of(one.plan), *(_median_and_tail(one.stages.get(stage)) for stage in stages))
            for one in measurements
        ),
    )


def _median_and_tail(times: Latencies | None) -> str:
    if times is None:
        return ""
    return f"{times.percentile_ms(50):.2f} / {times.percentile_ms(99):.2f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _usage_section(measurements: Sequence[Measurement]) -> tuple[Section, ...]:
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (label_of(one.plan), name, *figures.values())
        for one in measurements
        for name, figures in _processes(one).items()
    )
    if not rows:
        return ()
    headings = ("asked", "server", "CPU ms/request", "context switches/request", "memory MiB")
    return (Section("What the servers use", "", (Table(headings, rows),)),)
