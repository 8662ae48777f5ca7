"""Panels and variables, in one style for all dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef("prometheus", "prometheus")
_WIDTH, _STAT_WIDTH = 12, 6  # of 24 columns
_HEIGHT, _STAT_HEIGHT = 8, 4


def _query(expression: str, legend: str, name: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(name).expr(expression).legend_format(legend)


def number(
    title: str, expression: str, unit: str = "short", legend: str = "", limits: Sequence[tuple[float, str]] = ()
) -> stat.Panel:
    """Return a panel with the last value; `limits` are values, each with the colour from there on."""
    steps = [models.Threshold(None, "green"), *(models.Threshold(at, color) for at, color in limits)]
    return (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .height(_STAT_HEIGHT)
        .span(_STAT_WIDTH)
        .unit(unit)
        .with_target(_query(expression, legend).instant())
        .thresholds(builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME if legend else common.BigValueTextMode.VALUE)
    )


def graph(title: str, queries: Mapping[str, str], unit: str = "short", top: float | None = None) -> timeseries.Panel:
    """Return a panel with lines over time; `queries` are expressions by legend, `top` is the largest possible value."""
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(SOURCE)
        .height(_HEIGHT)
        .span(_WIDTH)
        .unit(unit)
        .min(0)
        .fill_opacity(10)
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if top is not None:
        panel.max(top)
    for name, (legend, expression) in zip(ascii_uppercase, queries.items(), strict=False):
        panel.with_target(_query(expression, legend, name))
    return panel


def variable(name: str, metric: str) -> builders.QueryVariable:
    """Return a choice of the values of a label of a metric, all of them by default."""
    return (
        builders.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def page(title: str, *variables: builders.QueryVariable) -> builders.Dashboard:
    """Return a dashboard without panels, of the last six hours."""
    made = (
        builders.Dashboard(title)
        .uid(f"homelab-{title.lower()}")
        .tags(["homelab"])
        .readonly()
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["homelab"])
            .as_dropdown(True)
            .keep_time(True)
        )
    )
    for each in variables:
        made.with_variable(each)
    return made
