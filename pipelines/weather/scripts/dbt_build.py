"""Build and test the marts with dbt in private tables, and publish a copy of them if everything passes.

Readers open data/published.duckdb, a link that is switched atomically: they never see a partial build, and a failed
build leaves the previous file. data/last_build.json has the report. PostgreSQL is reached with libpq's variables;
DBT_PGUSER and DBT_PGPASSWORD, if set, replace PGUSER and PGPASSWORD, as dbt only reads. The private tables are in the
file data/warehouse.duckdb, in the lake, or in ClickHouse: see warehouse.py. After the publication, one old month of raw
rows moves to object storage, if the inventory wants that: see archive.py.

The last line of standard output is the same report. Exit status: 0 published, 7 not published, 1 not published for
a reason that can pass (a lost connection, a lock), 2 invalid options.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import archive
import duckdb
import project_hash
import psycopg
import raw_source
import source_state
import test_state
import warehouse
from clickhouse import ClickHouseError, ClickHouseUnreachable
from dbt_runner import Layout, exclusive, print_outcome, write_report
from lake import StorageUnreachable
from warehouse_copy import CopyDiffers

ROOT = Path(__file__).resolve().parents[1]
_ERRORS = (
    *(psycopg.Error, duckdb.Error, OSError, source_state.CountsDiffer, CopyDiffers),
    *(warehouse.Misplaced, StorageUnreachable, archive.ArchiveDiffers, ClickHouseError, ClickHouseUnreachable),
)
_LASTING = (psycopg.ProgrammingError, warehouse.Misplaced, ClickHouseError)
FULL_REFRESH = "--full-refresh"


def selection(full_refresh: bool, test_all: bool) -> list[str]:
    """Return dbt's options for the nodes of a build; the code of views and seeds changes only with a full refresh.

    By default, dbt excludes the tests of an excluded model, too: hence the indirect selection.
    """
    kinds, excluded = ["unit_test", "exposure"], []  # unit tests check the code, which rarely changes
    if not full_refresh:
        kinds.append("seed")
        excluded.append("config.materialized:view")
    if not test_all:
        excluded.append("config.meta.test_increment_by:full_test+1,resource_type:test")
    types = [f"--exclude-resource-type={kind}" for kind in kinds]
    return ["--indirect-selection=empty", *types, *(("--exclude", *excluded) if excluded else ())]


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a build; `as_of` is the time up to which observations are expected."""

    full_refresh: bool = False
    test_all: bool = False
    as_of: datetime | None = None


def build(layout: Layout, timeout: float, request: Request) -> dict[str, Any]:
    """Build and test, then publish on success; write and return the report. Raises TimeoutError.

    A full refresh happens also when the code or the settings have changed, and when PostgreSQL was restored. Tests
    check the changed rows; all rows with `test_all`, once a week, and after a full refresh.
    """
    layout.data.mkdir(parents=True, exist_ok=True)
    with exclusive(layout.lock, timeout) as lock:
        started = datetime.now(UTC)
        problems, transient = dict[str, str](), None
        try:
            outcome = _build(layout, lock, request, started)
        except _ERRORS as error:
            print(f"error: {error}", file=sys.stderr)
            problems, transient = {"dbt_build": str(error)}, not isinstance(error, _LASTING)
            layout.run_results.unlink(missing_ok=True)  # this error is the cause of those of the models
            outcome = {"status": "failed", "full_refresh": request.full_refresh, "rows_tested": "none"}
        return write_report(layout, started, outcome, problems, transient)


def _build(layout: Layout, lock: int, request: Request, started: datetime) -> dict[str, Any]:
    """Plan, run dbt, compare the counts, publish. Raises the errors in _ERRORS."""
    layout.run_results.unlink(missing_ok=True)
    private, copies = warehouse.current(layout.data), layout.data / "archived"
    private.require()
    with private.connect() as connection:
        state, known = test_state.read(connection), source_state.read_state(connection)
        full_test_is_due = request.test_all or request.full_refresh or state.full_test_is_due(started)
        source = raw_source.read_source(known.landed_before, {} if full_test_is_due else known.partitions)
        fingerprint = project_hash.fingerprint(layout.project, *_settings(source))
        restored = source_state.is_restored(known, source)
        # Rows that other code has built would be mixed with this code's.
        full_refresh = request.full_refresh or restored or state.fingerprint != fingerprint
        # Before anything is changed: without the object storage, only increments can be built.
        os.environ[archive.ARCHIVED_FILES] = archive.fetch(source.archived_months, copies) if full_refresh else ""
        test_all = full_refresh or full_test_is_due
        as_of = request.as_of or started
        repaired = source_state.prepare(connection, known, source, as_of, full_refresh, test_all)
        if full_refresh:
            test_state.clear(connection)
    refresh = [FULL_REFRESH] if full_refresh else []
    status = private.run_dbt(layout, lock, [*refresh, *selection(full_refresh, test_all)])
    archive.remove(copies)
    archived = {}
    if status:
        private.require()
    else:
        with private.connect() as connection:
            source_state.complete(connection, source)
            full_test_at = started if test_all else state.full_test_at
            test_state.save(connection, test_state.TestState(full_test_at, fingerprint))
        private.publish(layout.published)
        archived = _archive(source)
    return {
        "status": "success" if status == 0 else "failed",
        "full_refresh": full_refresh,
        "rows_tested": "all" if test_all else "new",
        "months_landed_again": [f"{month:%Y-%m}" for month in repaired],
        "held_back": source.holders,
        **archived,
    }


def _archive(source: raw_source.Source) -> dict[str, Any]:
    """Move a month to object storage, if one is due; a failure leaves it in PostgreSQL, and the build is published."""
    try:
        month = archive.archive_next(source.oldest_running)
    except (psycopg.Error, duckdb.Error, OSError, archive.ArchiveDiffers) as error:
        print(f"warning: no month is archived: {error}", file=sys.stderr)
        return {"archive_problem": str(error)}
    return {"month_archived": f"{month:%Y-%m}"} if month else {}


def _settings(source: raw_source.Source) -> list[str]:
    """Return the settings that determine the marts: a change of one builds everything again."""
    days = os.environ.get("WEATHER_DAYS", "utc")
    timezones = source.timezones if days == "local" else ()
    return [os.environ.get("OPENWEATHER_UNITS", ""), days, repr(source.schedules), repr(timezones)]


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, default=ROOT / "dbt", help="folder of dbt_project.yml")
    parser.add_argument("--profiles", type=Path, default=ROOT, help="folder of profiles.yml")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder to build and publish in")
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for another run")
    parser.add_argument(FULL_REFRESH, action="store_true", help="rebuild everything from the raw rows")
    parser.add_argument("--test-all", action="store_true", help="test all rows, as once a week")
    parser.add_argument(
        "--as-of", type=datetime.fromisoformat, help="expect observations up to this time, with its offset; default now"
    )
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    request = Request(options.full_refresh, options.test_all, options.as_of)
    return print_outcome(lambda: build(layout, options.wait, request))


if __name__ == "__main__":
    sys.exit(main())
