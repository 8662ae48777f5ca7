"""What `homelab pipeline status` wants to know: `pipeline_status.py --database FILE` prints it as JSON.

The last build and the last fetch, the ingestion's runs as the marts have them, what is missing of the last days, and
how much waits on disk for Postgres.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from published import NothingPublished, connect
from query import plain

_RUNS = """select started_at, outcome, duration_s, observations_stored, observations_unchanged, cities_failed, error
from pipeline_runs order by started_at desc limit 10"""
_MISSING = """select city, observation_date, hours_expected, hours_observed, hours_missing from weather_quality
where hours_missing > 0 and observation_date > (select max(observation_date) from weather_daily) - 3
order by observation_date desc, hours_missing desc, city limit 20"""
_FRESH = """select (select max(ingested_at) from stg_weather) as newest_row,
(select count(*) from cities) as cities, (select max(observation_date) from weather_daily) as newest_day"""


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """A statement's rows, as JSON has them."""
    answer = connection.execute(sql)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, map(plain, row), strict=True)) for row in answer.fetchall()]


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    options = parser.parse_args()
    folder = options.database.parent
    report: dict[str, Any] = {"published": None, "runs": [], "missing": []}
    for name in ("last_build", "last_ingest"):
        file = folder / f"{name}.json"
        report[name] = json.loads(file.read_text()) if file.exists() else None
    report["spooled_bytes"] = sum(path.stat().st_size for path in (folder / "spool").glob("*.rows"))
    try:
        with connect(options.database) as connection:
            report["published"] = rows(connection, _FRESH)[0]
            report["runs"], report["missing"] = rows(connection, _RUNS), rows(connection, _MISSING)
    except (NothingPublished, duckdb.CatalogException):
        pass  # nothing yet, or by a version without these marts: the last build tells
    print(json.dumps(report, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
