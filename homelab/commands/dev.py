"""`homelab dev`: the pipeline on this machine without containers, for work on its models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from homelab.dev import local_stack
from homelab.dev.install import Installed, install
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.paths import bundled_path
from homelab.progress import Progress
from homelab.runtime.interactive import run_interactive
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.marts import Rows, parse_rows
from homelab.runtime.session import Session

_RUN_FIRST = "Run `homelab dev run`: it loads some weather and builds the marts."


@dataclass(frozen=True)
class DevRun:
    """The outcome of a run: new observations, dbt's counts, and the published marts."""

    stored: int
    models_built: int
    tests_passed: int
    full_refresh: bool
    seconds: float
    marts: Sequence[dict[str, Any]]

    def __str__(self) -> str:
        verb = "rebuilt" if self.full_refresh else "built"
        return (
            f"{self.stored} observations stored; {self.models_built} models {verb}, {self.tests_passed} tests "
            f"passed, published after {self.seconds:.0f} s"
        )


def run(session: Session, hours: int, full_refresh: bool) -> DevRun:
    """Load the next `hours` observations of each city, build, test and publish.

    Raises HomelabError if a model or a test fails; the published marts then stay as they were.
    """
    progress = session.progress
    with (
        _locked(session, "dev run") as (folder, installed),
        local_stack.running(folder, installed, replay=hours > 0) as stack,
    ):
        stored = _ingest(stack, hours, progress) if hours else 0
        options = ["--project", str(local_stack.project()), "--profiles", str(stack.data), "--data", str(stack.data)]
        with progress.step("dev", "dbt build and publish"):
            done = stack.script("dbt_build.py", *options, *(["--full-refresh"] if full_refresh else []))
            progress.event("dev", "command", command="dbt_build.py", output=done.stderr, status=done.returncode)
        report = _last_line(done)
        if done.returncode:
            raise _build_failed(report, done.stderr, stack.data)
        marts = _last_line(stack.script("report.py", "--database", str(stack.data / "published.duckdb")))["marts"]
    return DevRun(
        stored,
        report["models_built"],
        report["tests_passed"],
        report["full_refresh"],
        report["seconds"],
        [{name: mart[name] for name in ("name", "rows", "newest")} for mart in marts],
    )


def dbt(session: Session, words: Sequence[str]) -> int:
    """Run dbt on the project with the local PostgreSQL as its source; return dbt's exit status."""
    with (
        _locked(session, "dev dbt") as (folder, installed),
        local_stack.running(folder, installed, replay=False) as stack,
    ):
        session.progress.close()
        return run_interactive([str(installed.python.with_name("dbt")), *words], stack.dbt_environment())[0]


def querier(session: Session, unpublished: bool) -> Callable[[str], Rows]:
    """Return a function that runs one statement on the local marts. Raises HomelabError if there are none.

    The function raises InputError for SQL that DuckDB refuses.
    """
    folder = local_stack.folder_of(session.inventory.state_dir)
    database = folder / "data" / ("warehouse.duckdb" if unpublished else "published.duckdb")
    if not database.exists():
        raise HomelabError("Cannot query the marts: there are none", f"{database} does not exist.", _RUN_FIRST)
    script = str(bundled_path("pipeline") / "scripts" / "query.py")
    python = str(install(folder, session.progress).python)
    return partial(_query, [python, script, "--database", str(database), "--"])


def reset(session: Session) -> str | None:
    """Remove the local database, marts and installation; return their folder, None if there is none."""
    folder = local_stack.folder_of(session.inventory.state_dir)
    if not folder.exists():
        return None
    with lab_lock(folder, "dev reset"):
        local_stack.remove(folder)
    return str(folder)


def _query(argv: Sequence[str], sql: str) -> Rows:
    done = subprocess.run([*argv, sql], capture_output=True, check=False)
    return parse_rows(
        Result("query.py", done.returncode, done.stdout, done.stderr),
        "this machine",
        verb="dev query",
        publish=_RUN_FIRST,
        resolution="Wait for the end of a running `homelab dev run`, or start one.",
    )


def _ingest(stack: local_stack.Stack, hours: int, progress: Progress) -> int:
    """Load `hours` observations of each city; return the number of new ones."""
    with progress.step("dev", f"the next {hours} hours of {len(local_stack.CITIES)} cities"):
        # A city that is listed twice is requested twice, and the replay advances an hour each time.
        cities = json.dumps([{"name": city} for _ in range(hours) for city in local_stack.CITIES])
        done = stack.script("ingest_weather.py", WEATHER_CITIES=cities)
    if done.returncode:
        raise HomelabError(
            "Cannot load the weather",
            done.stderr.strip()[-1500:],
            "Run it again; `homelab dev reset` starts from nothing.",
        )
    stored: int = _last_line(done)["stored"]
    return stored


def _last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def _build_failed(report: dict[str, Any], output: str, data: Path) -> HomelabError:
    problems = [
        f"{problem['status']}: {problem['node']}\n  {' '.join(str(problem['message']).split())[:400]}"
        for problem in report.get("problems", ())
        if problem["status"] != "warn"
    ]
    return HomelabError(
        "Cannot publish the marts: dbt's build failed",
        "\n".join(problems[:10]) or output.strip()[-2000:],
        f"Fix the model and run it again, or a part of it: `homelab dev dbt -- build -s MODEL+`\n"
        f"dbt's full log: {data / 'logs' / 'dbt.log'}",
    )


@contextmanager
def _locked(session: Session, verb: str) -> Iterator[tuple[Path, Installed]]:
    """Hold the local folder's lock; give the folder and its installation."""
    folder = local_stack.folder_of(session.inventory.state_dir)
    local_stack.create(folder)
    with lab_lock(folder, verb):
        yield folder, install(folder, session.progress)
