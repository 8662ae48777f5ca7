"""`homelab dev`: the pipeline on this machine, without containers, for working on its models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.commands.query import parse_rows
from homelab.dev import local_stack
from homelab.dev.install import Installed, install
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.progress import Progress
from homelab.runtime.interactive import run_interactive
from homelab.runtime.lab_lock import lab_lock

_RUN_FIRST = "Run `homelab dev run`: it brings in some weather and builds the marts."


@dataclass(frozen=True)
class DevRun:
    """What came out: new observations, what dbt did, and the marts as they are published."""

    stored: int
    models_built: int
    tests_passed: int
    full_refresh: bool
    seconds: float
    marts: Sequence[dict[str, Any]]

    def __str__(self) -> str:
        how = "built anew" if self.full_refresh else "built"
        return (
            f"{self.stored} observations stored; {self.models_built} models {how}, {self.tests_passed} tests "
            f"passed, published after {self.seconds:.0f} s"
        )


def run(inventory: Inventory, hours: int, full_refresh: bool, *, progress: Progress) -> DevRun:
    """Bring in the next `hours` observations of each city, build, test and publish.

    Raises HomelabError when a model or a test fails; then what was published stays.
    """
    with (
        _ready(inventory, "dev run", progress) as (folder, installed),
        local_stack.running(folder, installed, weather=hours > 0) as parts,
    ):
        stored = _ingest(parts, hours, progress) if hours else 0
        with progress.step("dev", "dbt build, and publish"):
            done = parts.script(
                "transform.py",
                "--project",
                str(local_stack.project()),
                "--profiles",
                str(parts.data),
                "--data",
                str(parts.data),
                *(["--full-refresh"] if full_refresh else []),
            )
            progress.event("dev", "command", command="transform.py", output=done.stderr, status=done.returncode)
        report = _last_line(done)
        if done.returncode:
            raise _not_published(report, done.stderr, parts.data)
        marts = _last_line(parts.script("report.py", "--database", str(parts.data / "published.duckdb")))["marts"]
    return DevRun(
        stored,
        report["models_built"],
        report["tests_passed"],
        report["full_refresh"],
        report["seconds"],
        [{name: mart[name] for name in ("name", "rows", "newest")} for mart in marts],
    )


def _ingest(parts: local_stack.Stack, hours: int, progress: Progress) -> int:
    """As many observations of each city as are asked for; returns how many are new."""
    with progress.step("dev", f"the next {hours} hours of {len(local_stack.CITIES)} cities"):
        # A city that is named twice is asked for twice, and the replay goes on by an hour each time.
        cities = json.dumps([{"name": city} for _ in range(hours) for city in local_stack.CITIES])
        done = parts.script("ingest_weather.py", WEATHER_CITIES=cities)
    if done.returncode:
        raise HomelabError(
            "The weather could not be brought in",
            done.stderr.strip()[-1500:],
            "Run it again; `homelab dev reset` begins anew.",
        )
    stored: int = _last_line(done)["stored"]
    return stored


def _last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def _not_published(report: dict[str, Any], said: str, data: Path) -> HomelabError:
    """What is wrong with the models, in dbt's own words."""
    problems = [
        f"{problem['status']}: {problem['node']}\n  {' '.join(str(problem['message']).split())[:400]}"
        for problem in report.get("problems", ())
        if problem["status"] != "warn"
    ]
    return HomelabError(
        "Nothing was published: dbt's build has failed",
        "\n".join(problems[:10]) or said.strip()[-2000:],
        f"Mend the model and run it again, or a part of it: homelab dev dbt -- build -s MODEL+\n"
        f"All that dbt said: {data / 'logs' / 'dbt.log'}",
    )


def dbt(inventory: Inventory, words: Sequence[str], *, progress: Progress) -> int:
    """Run dbt on the project, with PostgreSQL beside it; its output is the caller's. Returns dbt's exit status."""
    with (
        _ready(inventory, "dev dbt", progress) as (folder, installed),
        local_stack.running(folder, installed, weather=False) as parts,
    ):
        progress.close()
        return run_interactive([str(installed.python.with_name("dbt")), *words], parts.dbt_environment())[0]


def shell(inventory: Inventory, form: str, unpublished: bool, *, progress: Progress) -> int:
    """A shell on the local marts; returns its exit status. Raises HomelabError if there are none."""
    words = _query(inventory, form, unpublished, progress)
    progress.close()
    return run_interactive(words)[0]


def _query(inventory: Inventory, form: str, unpublished: bool, progress: Progress) -> list[str]:
    """The words that run the shell, or with SQL after them a statement, on the local marts. Raises HomelabError."""
    folder = local_stack.folder_of(inventory.state_dir)
    database = folder / "data" / ("warehouse.duckdb" if unpublished else "published.duckdb")
    if not database.exists():
        raise HomelabError("There are no marts yet", f"{database} is not there.", _RUN_FIRST)
    python = install(folder, progress).python
    return [
        str(python),
        str(bundled_path("pipeline") / "scripts" / "query.py"),
        "--database",
        str(database),
        "--format",
        form,
    ]


def query(inventory: Inventory, sql: str, unpublished: bool, *, progress: Progress) -> Sequence[dict[str, Any]]:
    """The rows of one statement. Raises InputError for SQL that DuckDB refuses."""
    words = _query(inventory, "json", unpublished, progress)
    done = subprocess.run([*words, "--", sql], capture_output=True, check=False)
    return parse_rows(
        Result("query.py", done.returncode, done.stdout, done.stderr),
        "dev",
        wait=_RUN_FIRST,
        mend="Wait for the end of what writes there, or see `homelab dev run`.",
    )


def reset(inventory: Inventory) -> str | None:
    """Remove all of it; returns the folder that it was, None if there is none."""
    folder = local_stack.folder_of(inventory.state_dir)
    if not folder.exists():
        return None
    with lab_lock(folder, "dev reset"):
        local_stack.remove(folder)
    return str(folder)


@contextmanager
def _ready(inventory: Inventory, verb: str, progress: Progress) -> Iterator[tuple[Path, Installed]]:
    """The folder, held by this command alone, and what is installed in it."""
    folder = local_stack.folder_of(inventory.state_dir)
    local_stack.make(folder)
    with lab_lock(folder, verb):
        yield folder, install(folder, progress)
