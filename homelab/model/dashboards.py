"""Dashboards as code: datasets, charts and dashboards of a pipeline, in the files of a Superset export.

Two contents are equal if their canonical forms are equal. The canonical form omits numbers of Superset, derived values,
and defaults.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["dataset", "chart", "dashboard"]
FOLDER = "dashboards"  # of a pipeline
KINDS: Final[tuple[Kind, ...]] = ("dataset", "chart", "dashboard")  # each refers to those before it
TITLES: Final[Mapping[Kind, str]] = {"dataset": "table_name", "chart": "slice_name", "dashboard": "dashboard_title"}
_CONNECTIONS = uuid.UUID("6f6d5a5c-6f0e-5a0f-8f43-1d0a4c6b7f52")
# The order of the keys of a written file; further keys follow by name.
_ORDER = (
    *("table_name", "slice_name", "dashboard_title", "column_name", "metric_name", "verbose_name", "description"),
    *("viz_type", "dataset_uuid", "schema", "sql", "main_dttm_col", "slug", "type", "is_dttm", "expression"),
    *("css", "params", "columns", "metrics", "metadata", "position"),
)
_LAST = ("database_uuid", "uuid", "version")
_DERIVED: Final[Mapping[Kind, frozenset[str]]] = {
    "dataset": frozenset({"database_uuid", "version", "catalog", "data"}),
    "chart": frozenset({"version", "query_context", "tags"}),
    "dashboard": frozenset({"version", "tags"}),
}
# Superset's values of keys that a file omits. An import writes them: Superset keeps its value of a missing key.
DEFAULTS: Final[Mapping[Kind, Mapping[str, Any]]] = {
    "dataset": {
        **dict.fromkeys(
            ("description", "sql", "main_dttm_col", "default_endpoint", "cache_timeout", "params", "extra")
        ),
        **dict.fromkeys(("template_params", "fetch_values_predicate")),
        **{"schema": "main", "offset": 0, "filter_select_enabled": True},
        **{"normalize_columns": False, "always_filter_main_dttm": False, "columns": [], "metrics": []},
    },
    "chart": {**dict.fromkeys(("description", "certified_by", "certification_details", "cache_timeout")), "params": {}},
    "dashboard": {
        **dict.fromkeys(("description", "css", "slug", "certified_by", "certification_details")),
        **{"published": True, "metadata": {}, "position": {}},
    },
}
# Of the columns and the metrics of a dataset.
PART_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "columns": {
        **dict.fromkeys(("verbose_name", "description", "expression", "type", "python_date_format", "extra")),
        **{"is_dttm": False, "is_active": True, "groupby": True, "filterable": True},
    },
    "metrics": dict.fromkeys(("verbose_name", "description", "metric_type", "d3format", "extra", "warning_text")),
}
_DERIVED_PARAMS = frozenset({"slice_id", "datasource", "dashboards", "dashboardId", "viz_type", "url_params"})
# Superset writes the colours and the scopes that it computes while a dashboard is shown.
_DERIVED_METADATA = frozenset(
    {"shared_label_colors", "map_label_colors", "color_scheme_domain"}
    | {"chart_configuration", "global_chart_configuration", "show_native_filters"}
)
_DERIVED_FILTER = frozenset({"chartsInScope", "tabsInScope"})


def connection_uuid(pipeline: str) -> str:
    """Return the uuid of Superset's connection to the published file of a pipeline: the same in each lab.

    A dataset in a file can therefore name its connection before Superset has it.
    """
    return str(uuid.uuid5(_CONNECTIONS, pipeline))


@dataclass(frozen=True, slots=True)
class DashboardAsset:
    """A dataset, chart or dashboard; `path` is that of its file below `dashboards/`, "" without one."""

    kind: Kind
    content: Mapping[str, Any] = field(repr=False)  # canonical
    path: str = ""

    @property
    def uuid(self) -> str:
        """The uuid, which is the same in each Superset."""
        return str(self.content["uuid"])

    @property
    def title(self) -> str:
        """The name that Superset shows."""
        return str(self.content.get(TITLES[self.kind], ""))

    @property
    def digest(self) -> str:
        """The hash of the content."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return f"{self.kind} {self.title}"


def canonical(kind: Kind, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a file or an export in its canonical form. Raises one of UNREADABLE for other content."""
    kept = _without(content, _DERIVED[kind], DEFAULTS[kind])
    if kind == "dataset":
        for key, defaults in PART_DEFAULTS.items():
            kept[key] = sorted(
                (_without(each, ("uuid",), defaults) for each in kept.get(key, ())),
                key=lambda each: str(each.get("column_name") or each.get("metric_name")),
            )
    elif kind == "chart":
        kept["params"] = _without(kept.get("params") or {}, _DERIVED_PARAMS)
    else:
        ids = chart_numbers(kept.get("position") or {})
        kept["position"] = _numbered_position(kept.get("position") or {}, ids)
        kept["metadata"] = _canonical_metadata(kept.get("metadata") or {}, _by_old_number(content, ids))
    return {key: value for key, value in kept.items() if value not in ({}, [])}


def chart_uuids(position: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the uuids of the charts in the layout of a dashboard, by the keys of their places. Raises LookupError."""
    charts = {k: each for k, each in position.items() if isinstance(each, Mapping) and each.get("type") == "CHART"}
    return {key: str(each["meta"]["uuid"]) for key, each in charts.items()}


def chart_numbers(position: Mapping[str, Any]) -> Mapping[str, int]:
    """Return a stable number for each chart of a layout, by uuid: Superset replaces it with a number of its own."""
    return {each: number for number, each in enumerate(sorted(set(chart_uuids(position).values())), 1)}


def filter_datasets(metadata: Mapping[str, Any]) -> Sequence[str]:
    """Return the uuids of the datasets that the filters of a dashboard read."""
    filters = metadata.get("native_filter_configuration") or ()
    targets = (target for each in filters for target in each.get("targets") or ())
    return [str(each["datasetUuid"]) for each in targets if "datasetUuid" in each]


def ordered(content: Any) -> Any:
    """Return a content with its keys in the order of a written file."""
    if isinstance(content, Mapping):
        places = {**{key: (0, index) for index, key in enumerate(_ORDER)}, **{key: (2, 0) for key in _LAST}}
        keys = sorted(content, key=lambda key: (*places.get(key, (1, 0)), key))
        return {key: ordered(content[key]) for key in keys}
    return [ordered(each) for each in content] if isinstance(content, list | tuple) else content


def _without(content: Mapping[str, Any], keys: Any, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a mapping without some keys, empty values, and defaults."""
    return {
        key: value
        for key, value in content.items()
        if key not in keys and value not in (None, "", {}, []) and not (defaults and defaults.get(key, ...) == value)
    }


def _numbered_position(position: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    charts = chart_uuids(position)
    return {
        key: {**each, "meta": {**each["meta"], "chartId": ids[charts[key]]}} if charts.get(key) else each
        for key, each in position.items()
    }


def _by_old_number(content: Mapping[str, Any], ids: Mapping[str, int]) -> Mapping[str, int]:
    position = content.get("position") or {}
    return {str(position[key]["meta"].get("chartId")): ids[each] for key, each in chart_uuids(position).items()}


def _canonical_metadata(metadata: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of a dashboard; `numbers` has the new number of each chart by its old one, as text."""
    kept = _without(metadata, _DERIVED_METADATA, {"default_filters": "{}"})
    if "expanded_slices" in kept:
        kept["expanded_slices"] = {str(numbers.get(key, key)): value for key, value in kept["expanded_slices"].items()}
    for key in ("timed_refresh_immune_slices",):
        if key in kept:
            kept[key] = sorted(numbers.get(str(each), each) for each in kept[key])
    if "native_filter_configuration" in kept:
        kept["native_filter_configuration"] = [
            _canonical_filter(each, numbers) for each in kept["native_filter_configuration"]
        ]
    return kept


def _canonical_filter(filter_: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    kept = {key: value for key, value in filter_.items() if key not in _DERIVED_FILTER}
    scope = kept.get("scope")
    if isinstance(scope, Mapping) and scope.get("excluded"):
        excluded = sorted(numbers.get(str(each), each) for each in scope["excluded"])
        kept["scope"] = {**scope, "excluded": excluded}
    return kept
