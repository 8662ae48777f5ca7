"""`homelab dev`: the pipeline on this machine without containers, for work on its models."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from homelab.dev import local_stack, own_pipeline
from homelab.dev.install import Installed, install
from homelab.dev.saves import saves
from homelab.dev.weather_rows import last_line, load_weather
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.model import Inventory, Pipeline
from homelab.model.inventory import WEATHER
from homelab.model.pipelines import MANIFEST
from homelab.model.stages import BUILD
from homelab.paths import bundled_path
from homelab.pipelines.build_report import failed_nodes
from homelab.pipelines.weather import BUILT_IN
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
    weather = session.inventory.pipeline(WEATHER).folder
    with (
        _locked(session, "dev run") as (folder, installed),
        local_stack.running(folder, installed, hours > 0, weather) as stack,
    ):
        return _run_weather(stack, session.progress, hours, full_refresh)


def _run_weather(stack: local_stack.Stack, progress: Progress, hours: int, full_refresh: bool) -> DevRun:
    stored = load_weather(stack, hours, progress) if hours else 0
    options = ["--project", str(stack.project), "--profiles", str(stack.data), "--data", str(stack.data)]
    with progress.step("dev", "dbt build and publish"):
        done = stack.script("dbt_build.py", *options, *(["--full-refresh"] if full_refresh else []))
        progress.event("dev", "command", command="dbt_build.py", output=done.stderr, status=done.returncode)
    report = last_line(done)
    if done.returncode:
        raise _build_failed(report, done.stderr, stack.data)
    marts = last_line(stack.script("report.py", "--database", str(stack.data / "published.duckdb")))["marts"]
    return DevRun(
        stored,
        report["models_built"],
        report["tests_passed"],
        report["full_refresh"],
        report["seconds"],
        [{name: mart[name] for name in ("name", "rows", "newest")} for mart in marts],
    )


@dataclass(frozen=True)
class DevPipelineRun:
    """The outcome of a run of a user's pipeline: the seconds of each command, and dbt's counts."""

    commands: Mapping[str, float]
    models_built: int = 0
    tests_passed: int = 0

    def __str__(self) -> str:
        commands = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.commands.items())
        return f"{commands}; {self.models_built} models built, {self.tests_passed} tests passed"


def run_own(session: Session, name: str) -> DevPipelineRun:
    """Run the commands of a user's pipeline in order, as its DAG does. Raises HomelabError if one fails."""
    pipeline = session.inventory.pipeline(name)
    with (
        _locked(session, "dev run") as (folder, installed),
        local_stack.running(folder, installed, replay=False) as stack,
    ):
        return _run_commands(stack, session, pipeline, pipeline.tasks)


def _run_commands(
    stack: local_stack.Stack, session: Session, pipeline: Pipeline, commands: Sequence[str]
) -> DevPipelineRun:
    name, progress = pipeline.name, session.progress
    seconds, report = dict[str, float](), dict[str, Any]()
    local = own_pipeline.set_up(stack, pipeline, session.secrets, progress)
    for command in commands:
        started = time.monotonic()
        with progress.step("dev", f"{name}.{command}"):
            words = ["sh", "-c", local.command(command)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        seconds[command] = time.monotonic() - started
        is_build = command == BUILD and pipeline.has_dbt
        report = last_line(done) if is_build else report
        if done.returncode:
            raise _command_failed(name, command, done, report if is_build else {})
    return DevPipelineRun(seconds, report.get("models_built", 0), report.get("tests_passed", 0))


def watch(session: Session, name: str, load: Callable[[], Inventory]) -> Generator[Watched]:
    """Run a pipeline, and again after each save in its folder, with the servers kept; yield each outcome or error.

    A change of only the models runs only the build. `load` reads the inventory again.
    """
    folder = session.inventory.pipeline(name).folder
    weather = folder if name == WEATHER else BUILT_IN
    saved: Sequence[str] = [MANIFEST]
    with (
        _locked(session, "dev run") as (home, installed),
        local_stack.running(home, installed, replay=False, weather=weather) as stack,
    ):
        later = saves(folder)
        while True:
            try:
                if name == WEATHER:
                    yield _run_weather(stack, session.progress, hours=0, full_refresh=False)
                else:
                    pipeline = load().pipeline(name)
                    models_only = all(path.startswith("dbt/") for path in saved) and pipeline.has_dbt
                    yield _run_commands(stack, session, pipeline, [BUILD] if models_only else pipeline.tasks)
            except HomelabError as error:
                yield error
            saved = next(later)


Watched = DevRun | DevPipelineRun | HomelabError


def _command_failed(
    name: str, command: str, done: subprocess.CompletedProcess[str], report: Mapping[str, Any]
) -> HomelabError:
    details = "\n".join(failed_nodes(report)) or (done.stderr or done.stdout).strip()[-2000:]
    return HomelabError(
        f"Cannot run {command} of the pipeline {name}: it ended with status {done.returncode}",
        details,
        f"Fix the cause, then run `homelab dev run {name}` again.",
    )


def run_tests(session: Session, name: str, words: Sequence[str]) -> int:
    """Run pytest on the tests of a user's pipeline; return its exit status. Raises InputError without pytest."""
    tests = session.inventory.pipeline(name).folder / "tests"
    if find_spec("pytest") is None:
        raise InputError(
            f"Cannot test the pipeline {name}: pytest is not installed",
            "It has to be next to homelab.",
            "Install it with `pip install pytest`.",
        )
    session.progress.close()
    return run_interactive([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests), *words])[0]


def dbt_own(session: Session, name: str, words: Sequence[str]) -> int:
    """Run dbt on the project of a user's pipeline with the local PostgreSQL as its source; return its exit status."""
    pipeline = session.inventory.pipeline(name)
    with (
        _locked(session, "dev dbt") as (folder, installed),
        local_stack.running(folder, installed, replay=False) as stack,
    ):
        local = own_pipeline.set_up(stack, pipeline, session.secrets, session.progress)
        session.progress.close()
        status = run_interactive(["sh", "-c", local.dbt(words)])[0]
        if status and (unpublished := local.unpublished()):
            raise HomelabError(
                f"Cannot run dbt on all models of the pipeline {name}: it reads pipelines that have published nothing",
                f"{', '.join(unpublished)}.",
                "\n".join(f"Run it first: `homelab dev run {each}`" for each in unpublished),
            )
        return status


def dbt(session: Session, words: Sequence[str]) -> int:
    """Run dbt on the weather's project with the local PostgreSQL as its source; return dbt's exit status."""
    weather = session.inventory.pipeline(WEATHER).folder
    with (
        _locked(session, "dev dbt") as (folder, installed),
        local_stack.running(folder, installed, False, weather) as stack,
    ):
        session.progress.close()
        return run_interactive([str(installed.python.with_name("dbt")), *words], stack.dbt_environment())[0]


def querier(session: Session, unpublished: bool, pipeline: str) -> Callable[[str], Rows]:
    """Return a function that runs one statement on a pipeline's local marts. Raises HomelabError if there are none.

    The function raises InputError for SQL that DuckDB refuses.
    """
    folder = local_stack.folder_of(session.inventory.state_dir)
    base = folder
    if pipeline != WEATHER:
        base = own_pipeline.folder_of_pipeline(folder, pipeline)
    database = base / "data" / ("warehouse.duckdb" if unpublished else "published.duckdb")
    if not database.exists():
        raise HomelabError("Cannot query the marts: there are none", f"{database} does not exist.", _RUN_FIRST)
    script = str(bundled_path("pipelines/shared/scripts") / "query.py")
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
