"""The tables that a run of dbt has built in ClickHouse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbt_runner import Layout


@dataclass(frozen=True, slots=True)
class Built:
    """A table that dbt has built: its declared types, its key, and the relation with the periods that changed."""

    table: str
    types: Mapping[str, str]
    order: str = ""
    key: Sequence[str] = ()
    changed: str = ""

    def changed_keys(self, last_change: str) -> str:
        """Return the query for ClickHouse of the keys that an increment changes; "" if the run builds all rows.

        `last_change` is the time of a history's last version in the file; "" for other tables.
        """
        key = ", ".join(self.key)
        if self.changed:
            return f"select distinct {key} from {self.changed}"
        if last_change:  # a day before: the clocks of both may differ
            since = f"toDateTime64('{last_change}', 6, 'UTC') - interval 1 day"
            return f"select {key} from {self.table} where dbt_valid_from >= {since} or dbt_valid_to >= {since}"
        return ""

    @classmethod
    def read(cls, layout: Layout) -> list[Built]:
        """Return the tables of a run of dbt."""
        nodes = json.loads((layout.run_results.parent / "manifest.json").read_text())["nodes"]
        names = {node["name"]: f"{node['schema']}.{node['alias']}" for node in nodes.values()}
        results = json.loads(layout.run_results.read_text())["results"]
        found = []
        for node in (nodes[each["unique_id"]] for each in results):
            config = node["config"]
            if config["materialized"] not in ("table", "incremental", "snapshot", "seed"):
                continue
            types = {name: column["data_type"] for name, column in node["columns"].items() if column["data_type"]}
            changed = config.get("meta", {}).get("changed_periods", "")
            key = config["unique_key"] if changed else ["dbt_scd_id"]
            found.append(cls(names[node["name"]], types, config.get("order_by") or "", key, names.get(changed, "")))
        return found
