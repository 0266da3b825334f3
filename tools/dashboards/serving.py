"""How well candidates are answered, and what takes the time."""

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

_BUDGET_SECONDS: Final = 0.01
_BURNS: Final = ("BudgetBurnsFast", "BudgetBurnsSlowly")
_STAGES: Final = {
    "history": "Reading the user's last views from Redis.",
    "user_vector": "Predict: the model server, and the way there.",
    "search": "Search as the recommender sees it and, below it, inside the faiss server.",
    "popular": "Choosing popular articles, from the recommender's own memory.",
}


def dashboard() -> Dashboard:
    """Answer the dashboard Serving."""
    return lay_out(
        "Serving",
        "recsys-serving",
        "GetCandidates: how many are answered, how well, how fast, and by which servers.",
        {
            "Objective": [*_objective(), *_alerts()],
            "Answers": _answers(),
            "Stages": _stages(),
            "Search": _search(),
            "Calls": _calls(),
            "Servers": _servers(),
        },
    )


def _objective() -> list[Panel]:
    within = Figure(
        title="Answered within 10 ms",
        about="Share of GetCandidates of the last 5 minutes that was OK within 10 ms; 99 % or more"
        " is the objective.",
        unit="percentunit",
        queries=[Query(expr="1 - recsys:get_candidates:bad_ratio_rate5m", legend="within 10 ms")],
        alerts=_BURNS,
        below="red",
        thresholds=[Threshold(value=0.94, color="orange"), Threshold(value=0.99, color="green")],
        width=6,
        height=5,
        decimals=2,
    )
    left = Figure(
        title="Error budget left",
        about="Of the 1 % that may fail or be late in 30 days; below 0 the objective is missed."
        " Prometheus keeps 31 days; a younger one knows its own age only.",
        unit="percentunit",
        queries=[Query(expr="1 - recsys:get_candidates:bad_ratio_rate30d / 0.01", legend="left")],
        alerts=_BURNS,
        below="red",
        thresholds=[Threshold(value=0, color="orange"), Threshold(value=0.25, color="green")],
        width=6,
        height=5,
        decimals=1,
    )
    rate = Figure(
        title="Answers",
        about="Answers of all recommenders by second.",
        unit="reqps",
        queries=[Query(expr="sum(source_release:recsys_answers:rate5m)", legend="answers")],
        width=6,
        height=5,
    )
    degraded = Figure(
        title="Degraded",
        about="Share of the answers that are popular articles for want of a backend.",
        unit="percentunit",
        queries=[Query(expr="recsys:answers:degraded_ratio_rate5m", legend="degraded")],
        alerts=["AnswersDegraded"],
        thresholds=[Threshold(value=0.05)],
        width=6,
        height=5,
        decimals=1,
    )
    return [number(within), number(left), number(rate), number(degraded)]


def _alerts() -> list[Panel]:
    burn = Figure(
        title="Budget burn",
        about="How many times faster than allowed the error budget goes: at 1 it lasts 30 days."
        " An alert calls when the long and the short window are both above its line: 14.4 for"
        " 1 h with 5 m, 6 for 6 h with 30 m.",
        unit="none",
        queries=[
            Query(expr=f"recsys:get_candidates:bad_ratio_rate{window} / 0.01", legend=window)
            for window in ("5m", "30m", "1h", "6h")
        ],
        alerts=_BURNS,
        thresholds=[Threshold(value=6, color="orange"), Threshold(value=14.4)],
        width=14,
        at_most=15,
        decimals=1,
    )
    firing = Figure(
        title="Alerts that call",
        about="Nothing here: nothing is wrong that an alert knows of. What to do about one is in"
        " the dashboard Runbook, under its name.",
        unit="none",
        queries=[
            Query(
                expr="count by (alertname, severity, job, instance)"
                ' (ALERTS{alertstate="firing", alertname!=""})'
            )
        ],
        width=10,
    )
    fields = [
        Column(field="alertname", heading="Alert"),
        Column(field="severity", heading="Severity"),
        Column(field="job", heading="Part"),
        Column(field="instance", heading="Instance"),
    ]
    return [graph(burn), columns(firing, fields)]


def _answers() -> list[Panel]:
    by_source = Figure(
        title="Answers by source",
        about="PERSONALIZED: from the user's history. POPULAR: a step down, why is beside.",
        unit="reqps",
        queries=[
            Query(
                expr="sum by (source) (source_release:recsys_answers:rate5m)", legend="{{source}}"
            )
        ],
        stacked=True,
    )
    by_reason = Figure(
        title="Fallbacks by reason",
        about="Why answers are POPULAR. NO_HISTORY and UNKNOWN_HISTORY are no fault; the others"
        " name the part that is away.",
        unit="reqps",
        queries=[
            Query(
                expr="sum by (reason) (rate(recsys_fallbacks_total[$__rate_interval]))",
                legend="{{reason}}",
            )
        ],
        alerts=["AnswersDegraded"],
        stacked=True,
    )
    durations = Figure(
        title="GetCandidates",
        about="Time from a call's arrival at the recommender to its answer.",
        unit="s",
        queries=[
            Query(
                expr=f'method:recsys_rpc_seconds:{part}_5m{{method="GetCandidates"}}', legend=part
            )
            for part in ("p50", "p95", "p99")
        ],
        alerts=_BURNS,
        thresholds=[Threshold(value=_BUDGET_SECONDS)],
        at_most=1.2 * _BUDGET_SECONDS,
    )
    return [graph(by_source), graph(by_reason), graph(durations)]


def _stages() -> list[Panel]:
    return [
        graph(
            Figure(
                title=f"{stage}, p99",
                about=f"{about} The stage that grew names the part.",
                unit="s",
                queries=[
                    Query(
                        expr=f'stage:recsys_stage_seconds:p99_5m{{stage="{stage}"}}',
                        legend="{{job}}",
                    )
                ],
                alerts=_BURNS,
                thresholds=[Threshold(value=_BUDGET_SECONDS)],
                at_most=_BUDGET_SECONDS,  # all four alike, to be compared
                width=6,
            )
        )
        for stage, about in _STAGES.items()
    ]


def _search() -> list[Panel]:
    recall = Figure(
        title="Recall of live searches",
        about="Share of the best 200 articles that searches found, of a sample that is repeated"
        " exactly, over an hour.",
        unit="percentunit",
        queries=[
            Query(
                expr="sum by (instance) (rate(recsys_recall_at_200_sum[1h]))"
                " / sum by (instance) (rate(recsys_recall_at_200_count[1h]))",
                legend="{{instance}}",
            )
        ],
        alerts=["RecallLow"],
        below="red",
        thresholds=[Threshold(value=0.98, color="green")],
        width=12,
        decimals=1,
    )
    taken_down = Figure(
        title="Articles taken down",
        about="By instance; they agree within a second. The second line of an instance is 1 while"
        " it goes by what it knew last, since Redis is away.",
        unit="none",
        queries=[
            Query(expr=f"recsys_taken_down_articles{{{CHOSEN}}}", legend="{{job}} {{instance}}"),
            Query(
                expr=f"recsys_taken_down_unconfirmed{{{CHOSEN}}}",
                legend="unconfirmed: {{job}} {{instance}}",
            ),
        ],
        alerts=["TakeDownsUnconfirmed"],
        width=12,
        decimals=0,
    )
    return [graph(recall), graph(taken_down)]


def _calls() -> list[Panel]:
    by_method = "sum by (service, method) (%s)"
    codes = Figure(
        title="Calls by code",
        about="Calls that ended, by service, method and status code.",
        unit="reqps",
        queries=[
            Query(
                expr="sum by (service, method, code) (rate("
                f"recsys_rpc_duration_seconds_count{{{CHOSEN}}}[$__rate_interval]))",
                legend="{{service}}/{{method}} {{code}}",
            )
        ],
        width=12,
    )
    failed = Figure(
        title="Calls that failed",
        about="The same without OK.",
        unit="reqps",
        queries=[
            Query(
                expr="sum by (service, method, code) (rate("
                f'recsys_rpc_duration_seconds_count{{code!="OK", {CHOSEN}}}[$__rate_interval]))',
                legend="{{service}}/{{method}} {{code}}",
            )
        ],
        alerts=_BURNS,
        width=12,
    )
    in_flight = Figure(
        title="In flight, and the limit",
        about="Calls being answered, and how many may be, fewer under overload. The part whose"
        " calls stand at their limit is the one to add tasks to.",
        unit="none",
        queries=[
            Query(
                expr=by_method % f"recsys_rpc_in_flight{{{CHOSEN}}}",
                legend="{{service}}/{{method}}",
            ),
            Query(
                expr=by_method % f"recsys_rpc_limit{{{CHOSEN}}} > 0",
                legend="limit of {{service}}/{{method}}",
            ),
        ],
        alerts=["CallsShed"],
    )
    shed = Figure(
        title="Share shed",
        about="Share of the calls that were refused before any work, over 5 minutes.",
        unit="percentunit",
        queries=[
            Query(expr="method:recsys_rpc_shed:ratio_rate5m", legend="{{service}}/{{method}}")
        ],
        alerts=["CallsShed"],
        thresholds=[Threshold(value=0.01)],
        at_most=0.012,
    )
    late = Figure(
        title="Shed and out of time",
        about="Calls refused for load (shed), and calls that ended for want of time (late).",
        unit="reqps",
        queries=[
            Query(
                expr=by_method % f"rate(recsys_rpc_shed_total{{{CHOSEN}}}[$__rate_interval])",
                legend="shed: {{service}}/{{method}}",
            ),
            Query(
                expr=by_method
                % f"rate(recsys_rpc_deadline_exceeded_total{{{CHOSEN}}}[$__rate_interval])",
                legend="late: {{service}}/{{method}}",
            ),
        ],
        alerts=["CallsShed"],
    )
    return [graph(codes), graph(failed), graph(in_flight), graph(shed), graph(late)]


def _servers() -> list[Panel]:
    up = Figure(
        title="Replicas that answer Prometheus",
        about="By part. One less for two minutes is a ticket, none of a part wakes somebody.",
        unit="none",
        queries=[Query(expr=f"sum by (job) (up{{{CHOSEN}}})", legend="{{job}}")],
        alerts=["ReplicaDown", "AllReplicasDown"],
        below="red",
        thresholds=[Threshold(value=1, color="green")],
        decimals=0,
    )
    cpu = Figure(
        title="CPU",
        about="Cores in use by instance. A recommender is one interpreter: at 1 it is full, and"
        " late well before that; workers are a line each. Side-cars, TensorFlow Serving: unknown.",
        unit="suffix: cores",
        queries=[
            Query(
                expr=f"rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval])",
                legend="{{job}} {{instance}} {{worker}}",
            )
        ],
        alerts=["BudgetBurnsFast"],
        thresholds=[Threshold(value=0.8, color="orange")],
        at_most=1,
    )
    memory = Figure(
        title="Memory",
        about="Resident, by instance. A faiss server grows by an index while it holds two releases."
        " Side-cars, TensorFlow Serving: unknown.",
        unit="bytes",
        queries=[
            Query(
                expr=f"process_resident_memory_bytes{{{CHOSEN}}}",
                legend="{{job}} {{instance}} {{worker}}",
            )
        ],
    )
    return [graph(up), graph(cpu), graph(memory)]
