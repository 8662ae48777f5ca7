"""Build and test a pipeline's dbt project in a private file, and publish a copy of it if everything passes.

Readers open published.duckdb in the folder of data, a link that is switched atomically: they never see a partial build,
and a failed build leaves the previous file. last_build.json has the report.

A project can read the published files of other pipelines (see publications.py). If one of them is missing or broken,
the models that read it keep their rows, the others are published, and the report names the pipeline.

The last line of standard output is the same report. Exit status: 0 published, 4 published without new rows of the
models that read another pipeline, 7 not published, 1 not published for a reason that can pass (a lost connection, a
lock), 2 invalid options.

With `--exclusions`, a change of the table `exclusions` rebuilds incremental models, as they have the rows already.

With `--check`, nothing is written: all models are built without rows in a temporary file, which finds an error in a
model or in a column. The exit status is dbt's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from atomic_file import replace_text
from dbt_runner import Layout, dbt_environment, dbt_program, exclusive, print_outcome, write_report
from lake import StorageChanged, StorageUnreachable
from publications import failed_readers, inspect, without
from warehouse import Misplaced, current
from warehouse_copy import CopyDiffers

_EXCLUSIONS = """
select coalesce(md5(string_agg(concat(id, revoked_at is null), ',' order by id)), '') from exclusions
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a build: dbt's profile, and the reasons for a full refresh."""

    profile: str
    full_refresh: bool = False
    has_exclusions: bool = False


def build(layout: Layout, timeout: float, request: Request) -> dict[str, Any]:
    """Build and test, then publish on success; write and return the report. Raises TimeoutError."""
    layout.data.mkdir(parents=True, exist_ok=True)
    with exclusive(layout.lock, timeout) as lock:
        started = datetime.now(UTC)
        problems, transient = dict[str, str](), None
        layout.run_results.unlink(missing_ok=True)
        try:
            changed = Exclusions.read(layout) if request.has_exclusions else None
            full_refresh = request.full_refresh or (changed is not None and changed.differ)
            status, unread = _build(layout, lock, _options(request.profile, full_refresh))
            problems = {f"pipeline {name}": message for name, message in unread.items()}
            if changed and not status and not unread:
                changed.save()
        except (OSError, duckdb.Error, psycopg.Error, CopyDiffers, Misplaced, StorageUnreachable) as error:
            print(f"error: {error}", file=sys.stderr)
            problems, status = {"build_project": str(error)}, 1
            transient = not isinstance(error, Misplaced | StorageChanged)
            layout.run_results.unlink(missing_ok=True)  # this error is the cause of those of the models
        outcome = "failed" if status else "partial" if problems else "success"
        return write_report(layout, started, {"status": outcome}, problems, transient)


def _build(layout: Layout, lock: int, options: Sequence[str]) -> tuple[int, Mapping[str, str]]:
    """Run dbt and publish; return dbt's exit status, and the problem of each pipeline that could not be read."""
    publications = inspect(os.environ)
    os.environ.update(publications.variables)
    unread = dict(publications.problems)
    private = current(layout.data)
    private.require()
    status = private.run_dbt(layout, lock, [*options, *without(unread)])
    if status and (failed := failed_readers(layout.run_results.parent, os.environ)):
        unread |= {name: f"a model or a test that reads it has failed: {text}" for name, text in failed.items()}
        private.restore(layout.published)
        status = private.run_dbt(layout, lock, [*options, *without(unread)])
    if status:
        private.require()
        return status, unread
    if not private.exists():
        return 1, unread
    private.publish(layout.published)
    return 0, unread


def _options(profile: str, full_refresh: bool) -> list[str]:
    return ["--profile", profile, *(["--full-refresh"] if full_refresh else [])]


@dataclass(frozen=True, slots=True)
class Exclusions:
    """The state of the table `exclusions`, and the file with its state in the last complete build."""

    state: str
    file: Path

    @classmethod
    def read(cls, layout: Layout) -> Exclusions:
        """Read the table as the role of dbt. Raises psycopg.Error."""
        login = {name: os.environ[f"DBT_PG{name.upper()}"] for name in ("user", "password")}
        with psycopg.connect("", **login, application_name="build_project") as connection:  # type: ignore[arg-type]
            row = connection.execute(_EXCLUSIONS).fetchone()
        return cls(str(row[0]) if row else "", layout.data / "exclusions.state")

    @property
    def differ(self) -> bool:
        """Check that the table has changed since the last complete build."""
        return self.state != (self.file.read_text() if self.file.exists() else "")

    def save(self) -> None:
        """Record the state after a complete build."""
        replace_text(self.file, self.state)


def check(layout: Layout, options: Sequence[str]) -> int:
    """Build all models without rows in a temporary file; return dbt's exit status."""
    publications = inspect(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            **dbt_environment(layout),
            **publications.variables,
            "PIPELINE_WAREHOUSE": f"{folder}/empty.duckdb",
            "DBT_TARGET_PATH": folder,
            "DBT_LOG_PATH": folder,
        }
        empty = ["--quiet", "build", "--empty", "--exclude-resource-type=test", "--exclude-resource-type=unit_test"]
        folders = [f"--project-dir={layout.project}", f"--profiles-dir={layout.profiles}"]
        words = [dbt_program(), "--no-use-colors", *empty, *folders, *options, *without(publications.problems)]
        return subprocess.run(words, cwd=folder, env=variables, check=False).returncode


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, required=True, help="folder of dbt_project.yml")
    parser.add_argument("--profiles", type=Path, required=True, help="folder of profiles.yml")
    parser.add_argument("--profile", required=True, help="profile in profiles.yml, instead of the project's")
    parser.add_argument("--data", type=Path, required=True, help="folder to build and publish in")
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for another run")
    parser.add_argument("--full-refresh", action="store_true", help="rebuild incremental models")
    parser.add_argument("--exclusions", action="store_true", help="rebuild when the exclusions have changed")
    parser.add_argument("--check", action="store_true", help="only check the models, and write nothing")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    if options.check:
        return check(layout, _options(options.profile, full_refresh=False))
    request = Request(options.profile, options.full_refresh, options.exclusions)
    return print_outcome(lambda: build(layout, options.wait, request))


if __name__ == "__main__":
    sys.exit(main())
