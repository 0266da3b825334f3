"""What the dashboards are made of: a figure is told once, and looks like the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tools.dashboards import runbook

__all__ = [
    "CHOSEN",
    "PROMETHEUS",
    "Column",
    "Figure",
    "Panel",
    "Query",
    "Threshold",
    "columns",
    "graph",
    "lay_out",
    "number",
]

PROMETHEUS: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
"""Narrows a metric down to the servers that were picked at the top of the page."""

_JOBS: Final = "recommender|faiss-server|model-server|model-pull"
# For a minute after somebody pinned a release that nobody had: its id is the series' label.
_RELEASE_CHANGES: Final = (
    'count_values("release", recsys_release{kind="pinned"} > 0)'
    ' unless on (release) count_values("release", recsys_release{kind="pinned"} offset 1m > 0)'
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """PromQL, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """From this value on things are `color`; below the first they are `below`."""

    value: float
    color: str = "red"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One panel: what is shown, how to read it, and the alerts that watch the same."""

    title: str
    about: str
    unit: str
    queries: Sequence[Query]
    alerts: Sequence[str] = ()
    below: str = "green"
    thresholds: Sequence[Threshold] = ()
    width: int = 8
    height: int = 8
    stacked: bool = False
    at_least: float | None = 0.0
    at_most: float | None = None
    decimals: int | None = None

    @property
    def description(self) -> str:
        """Say how to read the panel, and which alerts belong to it."""
        told = [
            f"Alert [{name}]({runbook.address(name)}): {runbook.PAGE}#{name.lower()}"
            for name in self.alerts
        ]
        return "\n\n".join([self.about, *told])

    def links(self) -> list[Builder[model.DashboardLink]]:
        """Lead to the alerts' texts."""
        return [_link(f"Runbook: {name}", runbook.address(name)) for name in self.alerts]

    def steps(self) -> build.ThresholdsConfig:
        """Answer the colours by value."""
        steps = [model.Threshold(color=self.below)]
        steps += [model.Threshold(value=each.value, color=each.color) for each in self.thresholds]
        return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the query's field, its heading, and its unit where it is a number."""

    field: str
    heading: str
    unit: str | None = None
    colored: bool = False


Panel = timeseries.Panel | stat.Panel | table.Panel
_AnyPanel = TypeVar("_AnyPanel", timeseries.Panel, stat.Panel, table.Panel)


def graph(figure: Figure) -> timeseries.Panel:
    """Draw a figure over time, its thresholds as lines."""
    panel = _described(timeseries.Panel(), figure)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(shown.LegendDisplayMode.LIST)
        .placement(shown.LegendPlacement.BOTTOM)
    )
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(shown.TooltipDisplayMode.MULTI)
        .sort(shown.SortOrder.DESCENDING)
    )
    panel.show_points(shown.VisibilityMode.NEVER).fill_opacity(40 if figure.stacked else 0)
    if figure.stacked:
        panel.stacking(common.StackingConfig().mode(shown.StackingMode.NORMAL))
    if figure.thresholds:
        style = common.GraphThresholdsStyleConfig().mode(shown.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    if figure.at_least is not None:
        panel.axis_soft_min(figure.at_least)
    if figure.at_most is not None:
        panel.axis_soft_max(figure.at_most)
    for query in figure.queries:
        panel.with_target(_query(query).range())
    return panel


def number(figure: Figure) -> stat.Panel:
    """Show a figure's last value, in the colour of its threshold."""
    panel = _described(stat.Panel(), figure)
    panel.graph_mode(shown.BigValueGraphMode.AREA).color_mode(shown.BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
    for query in figure.queries:
        panel.with_target(_query(query).range())
    return panel


def columns(figure: Figure, fields: Sequence[Column]) -> table.Panel:
    """Show what is now, one row for each series; fields that are not named are left out."""
    panel = _described(table.Panel(), figure)
    panel.align(shown.FieldTextAlignment.AUTO).inspect(inspect=False)
    for query in figure.queries:
        panel.with_target(_query(query).instant().format(PromQueryFormat.TABLE))
    order = {each.field: at for at, each in enumerate(fields)}
    headings = {each.field: each.heading for each in fields}
    if len(figure.queries) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"names": [*order]}}
        )
    )
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize", options={"indexByName": order, "renameByName": headings}
        )
    )
    for column in fields:
        properties = []
        if column.unit is not None:
            properties.append(model.DynamicConfigValue(id_val="unit", value=column.unit))
        if column.colored:
            properties.append(
                model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"})
            )
        if properties:
            panel.override_by_name(column.heading, properties)
    return panel


def lay_out(title: str, uid: str, about: str, rows: dict[str, Sequence[Panel]]) -> build.Dashboard:
    """Make a dashboard of rows of panels, with what every one of ours has."""
    board = build.Dashboard(title).uid(uid).description(about).tags(["recsys"]).readonly()
    board.tooltip(model.DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh("10s")
    board.timepicker(build.TimePicker().refresh_intervals(["5s", "10s", "1m", "5m"]))
    for variable in _variables():
        board.with_variable(variable)
    board.annotation(_ReleaseChanges())
    others = build.DashboardLink("Dashboards").type(model.DashboardLinkType.DASHBOARDS)
    board.link(others.tags(["recsys"]).as_dropdown(as_dropdown=False).keep_time(keep_time=True))
    identity = 0
    for heading, panels in rows.items():
        identity += 1
        board.with_row(build.Row(heading).id(identity))
        for panel in panels:
            identity += 1
            board.with_panel(panel.id(identity))
    return board


class _ReleaseChanges(Builder[model.AnnotationQuery]):
    """Marks in each graph the moments at which another release was pinned."""

    def build(self) -> model.AnnotationQuery:
        """Build the object."""
        return _Titled(
            name="Releases",
            datasource=PROMETHEUS,
            icon_color="purple",
            expr=_RELEASE_CHANGES,
        )


class _Titled(model.AnnotationQuery):
    """Says which release: the title is Grafana's, and missing in the model of it."""

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": "release {{release}} in service", "step": "15s"}


def _described(panel: _AnyPanel, figure: Figure) -> _AnyPanel:
    panel.title(figure.title).description(figure.description).unit(figure.unit)
    panel.datasource(PROMETHEUS).thresholds(figure.steps()).links(figure.links())
    if figure.decimals is not None:
        panel.decimals(figure.decimals)
    return panel.span(figure.width).height(figure.height)


def _query(query: Query) -> Dataquery:
    return Dataquery().expr(query.expr).legend_format(query.legend)


def _link(title: str, url: str) -> build.DashboardLink:
    return build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url)


def _variables() -> Sequence[Builder[model.VariableModel]]:
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    jobs = (
        build.QueryVariable("job").label("Part").query(f'label_values(up{{job=~"{_JOBS}"}}, job)')
    )
    instances = (
        build.QueryVariable("instance")
        .label("Instance")
        .query('label_values(up{job=~"$job"}, instance)')
    )
    for variable in (jobs, instances):
        variable.datasource(PROMETHEUS).current(everything).multi(multi=True)
        variable.include_all(include_all=True).all_value(".*").allow_custom_value(
            allow_custom_value=False
        )
        variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        variable.sort(model.VariableSort.ALPHABETICAL_ASC)
    source = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    source.current(model.VariableOption(selected=True, text="Prometheus", value="prometheus"))
    return [source, jobs, instances]
