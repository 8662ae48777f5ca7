"""Metrics of a pipeline in Prometheus' format, which each build writes to metrics.prom in its folder of data.

homelab adds the name of the pipeline to each line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from atomic_file import replace_text
from read_published import NothingPublished, connect

_TABLES = """select table_name, estimated_size, coalesce(bool_or(column_name = 'last_ingested_at'), false)
from duckdb_tables() as tables
left join duckdb_columns() as columns using (database_name, schema_name, table_name)
where schema_name = 'main' group by all order by all"""
_RUNS = """select sum(observations_stored + observations_unchanged + observations_spooled) / sum(cities_requested),
coalesce(sum(responses_quarantined), 0) from pipeline_runs where started_at > now() - interval 2 day"""


def write_metrics(data: Path, published: Path, report: Mapping[str, Any]) -> None:
    """Write the metrics of a build atomically; an error is printed and does not fail the build."""
    try:
        lines = [*_of_build(report), *_of_published(published)]
        replace_text(data / "metrics.prom", "".join(f"homelab_pipeline_{name} {value}\n" for name, value in lines))
    except (duckdb.Error, OSError) as error:
        print(f"warning: no metrics: {error}", file=sys.stderr)


def _of_build(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "last_build_timestamp_seconds", datetime.fromisoformat(report["finished"]).timestamp()
    yield "last_build_success", int(report["status"] == "success")
    yield "last_build_duration_seconds", report["seconds"]
    yield "last_build_tests_failed", report["tests_failed"]
    failed = [each for each in report["problems"] if each["status"] in ("error", "fail")]
    if words := "; ".join(f"{_named(each['node'])}: {each['message']}" for each in failed):
        yield f'last_error_info{{message="{_label(words)}"}}', 1


def _named(node: str) -> str:
    """Return `test NAME` for dbt's id of a node: KIND.PROJECT.NAME, for a generic test with a hash at the end."""
    kind, *parts = node.split(".")
    return f"{kind} {parts[1]}" if len(parts) > 1 else node


def _label(text: str) -> str:
    """Return a text as the value of a label: a line of ASCII without quotes and backslashes."""
    line = " ".join(text.split()).replace('"', "'").replace("\\", "/")
    return re.sub("[^ -~]", "?", line)[:500]


def _of_published(published: Path) -> Iterator[tuple[str, float]]:
    try:
        with connect(published) as connection:
            state = published.stat()
            yield "published_timestamp_seconds", int(state.st_mtime)
            yield "published_bytes", state.st_size
            yield from _of_tables(connection)
    except NothingPublished:
        return


def _of_tables(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, float]]:
    """Yield the number of rows of each table and, if a table has the columns for it, the quality of the data."""
    newest: list[float | None] = []
    for table, rows, has_time in connection.execute(_TABLES).fetchall():
        yield f'rows{{table="{table}"}}', rows
        if has_time:
            newest += connection.table(table).aggregate("epoch(max(last_ingested_at))").fetchone() or ()
    if times := [at for at in newest if at is not None]:
        yield "newest_row_timestamp_seconds", int(max(times))
    names = {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}
    if "observation_issues" in names:
        yield "issues", (connection.execute("select count(*) from observation_issues").fetchone() or (0,))[0]
    if "pipeline_runs" in names:
        ratio, quarantined = connection.execute(_RUNS).fetchone() or (None, 0)
        yield "quarantined_responses", int(quarantined)
        if ratio is not None:
            yield "completeness_ratio", round(ratio, 4)
