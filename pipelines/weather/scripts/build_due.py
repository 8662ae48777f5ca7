"""Decide whether a build is due: `build_due.py`, for the DAG weather_new_rows.

It is due if WEATHER_BUILD_ROWS rows wait that the last build has not landed, after a failed build, and after an
exclusion of observations or its revocation. DBT_PGUSER and DBT_PGPASSWORD, if set, replace PGUSER and
PGPASSWORD.

Exit status: 0 a build is due, 9 it is not, or one is running, 1 PostgreSQL cannot be asked, 8 invalid settings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psycopg
from contract import EXIT, Parser
from dbt_login import dbt_keywords
from dbt_runner import Layout, exclusive
from ingest_settings import SettingsError, read_integer

_WAITING = """
select
    (select count(*) from (
        select from raw.weather_observations where inserted_xid >= %(since)s::text::xid8 limit %(rows)s
    ) as waiting),
    exists (select from raw.exclusion_entries where inserted_xid >= %(since)s::text::xid8)
"""


def is_due(data: Path, rows: int) -> bool:
    """Return True if `rows` new rows or a correction wait, or if the last build has failed. Raises psycopg.Error."""
    try:
        since = json.loads((data / "last_build.json").read_text())["landed_before"]
    except (OSError, ValueError, LookupError):
        since = None
    if since is None:
        return True
    with psycopg.connect(**dbt_keywords(), application_name="weather_build_due") as connection:
        found = connection.execute(_WAITING, {"since": since, "rows": rows}).fetchone()
    waiting, corrected = found or (0, False)
    print(json.dumps({"new_rows": waiting, "corrected": corrected}))
    return bool(corrected) or waiting >= rows


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    Parser(description=(__doc__ or "").partition(":")[0]).parse_args()
    data = Path(os.environ.get("WEATHER_DATA", ".")).resolve()
    try:
        rows = read_integer(os.environ, "WEATHER_BUILD_ROWS", 1, low=1, high=1_000_000)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    try:
        with exclusive(Layout(data, data, data).lock, 0):
            return EXIT.success if is_due(data, rows) else EXIT.not_due
    except TimeoutError:
        print("a build is running")
        return EXIT.not_due
    except (psycopg.Error, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed


if __name__ == "__main__":
    sys.exit(main())
