"""Build and test a pipeline's dbt project in a private file, and publish a copy of it if everything passes.

Readers open published.duckdb in the folder of data, a link that is switched atomically: they never see a partial build,
and a failed build leaves the previous file. last_build.json has the report.

The last line of standard output is the same report. Exit status: 0 published, 7 not published, 1 not published for
a reason that can pass (a lost connection, a lock), 2 invalid options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dbt_runner import Layout, exclusive, print_outcome, run_dbt, write_report
from publish import publish


def build(layout: Layout, timeout: float, options: Sequence[str]) -> dict[str, Any]:
    """Build and test, then publish on success; write and return the report. Raises TimeoutError."""
    layout.data.mkdir(parents=True, exist_ok=True)
    with exclusive(layout.lock, timeout) as lock:
        started = datetime.now(UTC)
        problem, transient = "", None
        layout.run_results.unlink(missing_ok=True)
        status = run_dbt(layout, lock, options)
        try:
            if status == 0:
                publish(layout.warehouse, layout.published)
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            problem, transient, status = str(error), True, 1
        return write_report(layout, started, {"status": "failed" if status else "success"}, problem, transient)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, required=True, help="folder of dbt_project.yml")
    parser.add_argument("--profiles", type=Path, required=True, help="folder of profiles.yml")
    parser.add_argument("--profile", required=True, help="profile in profiles.yml, instead of the project's")
    parser.add_argument("--data", type=Path, required=True, help="folder to build and publish in")
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for another run")
    parser.add_argument("--full-refresh", action="store_true", help="rebuild incremental models")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    words = ["--profile", options.profile, *(["--full-refresh"] if options.full_refresh else [])]
    return print_outcome(lambda: build(layout, options.wait, words))


if __name__ == "__main__":
    sys.exit(main())
