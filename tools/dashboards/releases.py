"""Which release is where, how old it is, and what kept a newer one out."""

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard

from tools.dashboards.panels import (
    CHOSEN,
    Column,
    Figure,
    Panel,
    Query,
    Threshold,
    columns,
    graph,
    lay_out,
    number,
)

__all__ = ["dashboard"]

_OLD_SECONDS: Final = 14 * 3600.0
_EVERY_SECONDS: Final = 12 * 3600.0


def dashboard() -> Dashboard:
    """Answer the dashboard Releases."""
    return lay_out(
        "Releases",
        "recsys-releases",
        "Which release each server holds, how old it is, how a new one comes in, and what failed.",
        {"In service": _in_service(), "Coming in": _coming_in(), "Kept out": _kept_out()},
    )


def _in_service() -> list[Panel]:
    age = Figure(
        title="Age of the release in service",
        about="Since the run that made it began. Runs are 12 hours apart; after 14 hours one is"
        " missing.",
        unit="s",
        queries=[Query(expr='recsys:release:age_seconds{kind="pinned"}', legend="age")],
        alerts=["ReleaseOld"],
        thresholds=[
            Threshold(value=_EVERY_SECONDS, color="orange"),
            Threshold(value=_OLD_SECONDS),
        ],
        width=8,
        height=5,
    )
    without = Figure(
        title="Servers without a release",
        about="They are NOT_SERVING: nothing in the store, or nothing that they take.",
        unit="none",
        queries=[
            Query(
                expr="count(max by (job, instance) (recsys_release) == 0) or vector(0)",
                legend="without",
            )
        ],
        alerts=["NoRelease"],
        thresholds=[Threshold(value=1)],
        width=8,
        height=5,
        decimals=0,
    )
    differ = Figure(
        title="Replicas apart",
        about="Between the newest and the oldest release that replicas of one part hold: 0 but for"
        " the minutes of a swap.",
        unit="s",
        queries=[
            Query(
                expr="max(max by (kind) (recsys_release) - min by (kind) (recsys_release))",
                legend="apart",
            )
        ],
        alerts=["ReleasesDiffer"],
        thresholds=[Threshold(value=1, color="orange")],
        width=8,
        height=5,
    )
    held = Figure(
        title="Release by instance",
        about="Recommenders: the release they have pinned. Faiss servers (index), model servers"
        " (model) and side-cars (pulled): the newest that is ready. TensorFlow Serving does not"
        " tell: its side-car does, and a release is pinned only if it is there.",
        unit="none",
        queries=[
            Query(expr=f"recsys_release{{{CHOSEN}}}"),
            Query(expr=f"recsys_release{{{CHOSEN}}} * 1000"),
        ],
        alerts=["NoRelease", "ReleasesDiffer"],
        below="red",
        thresholds=[Threshold(value=1, color="green")],
        width=12,
        height=9,
        decimals=0,
    )
    fields = [
        Column(field="job", heading="Part"),
        Column(field="instance", heading="Instance"),
        Column(field="kind", heading="Kind"),
        Column(field="Value #A", heading="Release", colored=True),
        Column(field="Value #B", heading="Run began", unit="dateTimeAsIso"),
    ]
    by_release = Figure(
        title="Answers by release",
        about="One label goes and another comes: a swap. Both at once: a split, or amid a swap.",
        unit="reqps",
        queries=[
            Query(
                expr="sum by (release) (source_release:recsys_answers:rate5m)",
                legend="{{release}}",
            )
        ],
        alerts=["ReleasesDiffer"],
        stacked=True,
        width=12,
        height=9,
    )
    return [number(age), number(without), number(differ), columns(held, fields), graph(by_release)]


def _coming_in() -> list[Panel]:
    ages = Figure(
        title="Age by part",
        about="Each fall is a release that has arrived. Side-cars (pulled) come first, then model"
        " and index, and last what is pinned.",
        unit="s",
        queries=[Query(expr="recsys:release:age_seconds", legend="{{job}}: {{kind}}")],
        alerts=["ReleaseOld"],
        thresholds=[Threshold(value=_OLD_SECONDS)],
    )
    behind = Figure(
        title="Side-cars behind",
        about="By how much a side-car's newest release is older than the newest that there is.",
        unit="s",
        queries=[
            Query(
                expr="scalar(max(recsys_release))"
                f' - (recsys_release{{kind="pulled", {CHOSEN}}} > 0)',
                legend="{{instance}}",
            )
        ],
        alerts=["ReleasesDiffer", "StoreUnreachable"],
        thresholds=[Threshold(value=1, color="orange")],
    )
    memory = Figure(
        title="Releases in memory",
        about="Faiss servers by state, model servers by model. Two at most: the one before stays"
        " for the requests that began on it.",
        unit="none",
        queries=[
            Query(
                expr=f"recsys_releases_resident{{{CHOSEN}}}",
                legend="{{job}} {{instance}}: {{state}}",
            ),
            Query(
                expr=f"recsys_model_versions_available{{{CHOSEN}}}",
                legend="{{job}} {{instance}}: {{model}}",
            ),
        ],
        thresholds=[Threshold(value=3)],
        at_most=3,
        decimals=0,
    )
    return [graph(ages), graph(behind), graph(memory)]


def _kept_out() -> list[Panel]:
    refused = Figure(
        title="Refused in the last hour",
        about="Releases whose checksums, counts or golden answers were wrong, by reason. The one"
        " before stays in service.",
        unit="none",
        queries=[
            Query(
                expr="sum by (job, reason)"
                f" (increase(recsys_release_refused_total{{{CHOSEN}}}[1h]))",
                legend="{{job}} {{reason}}",
            )
        ],
        alerts=["ReleaseRefused"],
        thresholds=[Threshold(value=1)],
        at_most=1,
    )
    failed = Figure(
        title="Models that failed to load, 15 minutes",
        about="From TensorFlow Serving by the version's folder, from the stand-in by status code.",
        unit="none",
        queries=[
            Query(
                expr="sum by (model, code)"
                f" (increase(recsys_model_load_failures_total{{{CHOSEN}}}[15m]))",
                legend="{{model}} {{code}}",
            ),
            Query(
                expr="sum by (model_path) (increase(:tensorflow:cc:saved_model:load_attempt_count"
                f'{{status="fail", {CHOSEN}}}[15m]))',
                legend="{{model_path}}",
            ),
        ],
        alerts=["ModelLoadFails"],
        thresholds=[Threshold(value=1)],
        at_most=1,
    )
    store = Figure(
        title="Failed looks at the store, 10 minutes",
        about="By instance. What is held stays in service; a task that starts now has nothing.",
        unit="none",
        queries=[
            Query(
                expr="sum by (job, instance)"
                f" (increase(recsys_store_poll_failures_total{{{CHOSEN}}}[10m]))",
                legend="{{job}} {{instance}}",
            )
        ],
        alerts=["StoreUnreachable"],
        thresholds=[Threshold(value=5)],
        at_most=6,
    )
    return [graph(refused), graph(failed), graph(store)]
