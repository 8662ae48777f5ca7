"""Print the pipeline's state as JSON, for `homelab pipeline status`: `pipeline_status.py --database FILE`.

It has the last build, the last ingestion, the last runs as in the marts, the missing observations of the last days, the
implausible values, the transaction that holds the landing back, and the size of the spool.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from contract import EXIT
from json_rows import to_json
from read_published import NothingPublished, connect
from report import held_back

_RUNS = """select started_at, outcome, duration_s, observations_stored, observations_unchanged, cities_failed, error
from pipeline_runs order by started_at desc limit 10"""
_MISSING = """select city, observation_date, times_expected, times_observed, times_missing from weather_completeness
where times_missing > 0 and observation_date > (select (built_at at time zone 'UTC')::date from build_info) - 3
order by observation_date desc, times_missing desc, city limit 20"""
_ISSUES = """select city, observation_timestamp, column_name, value, reason from observation_issues
order by observation_timestamp desc, city, column_name limit 20"""
_PUBLISHED = """select (select max(ingested_at) from stg_weather) as newest_row,
(select count(*) from cities) as cities, (select count(*) from observation_issues) as issues,
(select max(observation_date) from weather_daily) as newest_day"""


def fetch_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Return a statement's rows as JSON values."""
    answer = connection.execute(sql)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, map(to_json, row), strict=True)) for row in answer.fetchall()]


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    options = parser.parse_args()
    folder = options.database.parent
    report: dict[str, Any] = {"published": None, "runs": [], "missing": [], "issues": [], "held_back": None}
    for name in ("last_build", "last_ingest"):
        file = folder / f"{name}.json"
        report[name] = json.loads(file.read_text()) if file.exists() else None
    report["spooled_bytes"] = sum(path.stat().st_size for path in (folder / "spool").glob("*.rows"))
    try:
        with connect(options.database) as connection:
            report["published"] = fetch_rows(connection, _PUBLISHED)[0]
            report["runs"], report["missing"] = fetch_rows(connection, _RUNS), fetch_rows(connection, _MISSING)
            report["issues"] = fetch_rows(connection, _ISSUES)
            report["held_back"] = held_back(connection)
    except (NothingPublished, duckdb.CatalogException):
        pass  # no build yet, or one of another version without these marts; last_build shows it
    print(json.dumps(report, ensure_ascii=False))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
