"""`pipeline.yaml`, the manifest of a pipeline, and the files next to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from homelab.inventory import schedule, yaml_source
from homelab.inventory.declaration import declaration_of
from homelab.inventory.errors import Place
from homelab.inventory.section import Section
from homelab.inventory.value_types import anchored
from homelab.model import AirflowObjects, Pipeline, SchemaVersion
from homelab.model.airflow_objects import Connections, Pools, Variables
from homelab.model.inventory import WEATHER
from homelab.model.lake import Lake
from homelab.model.options import Duration, KeyNames, Option, SecretName, Size
from homelab.model.pipelines import LOCKED_BY, MANIFEST, Corrections, lock_header
from homelab.paths import bundled_path

_VERSION = re.compile(r"^-- version ([0-9]+)\b.*$", re.MULTILINE)
_SCRIPT = Option(
    pattern=r"scripts/([\w-]+/)*[\w-]+\.py( [\w./:=-]+)*",
    expected="a path below scripts/ that ends in .py, and arguments of letters, digits and ./:=-_",
)
_TASK = Option(pattern=r"[\w.-]{1,250}", expected="a task's id")
_COMMAND = r"[a-z][a-z0-9_]{0,30}"
_VARIABLE = (
    "(?!(PG|DBT_|READS_|LAKE_|CLICKHOUSE_|S3_|DUCKDB_|OPENWEATHER_|WEATHER_|PIPELINE|HOMELAB_|PYTHON|LD_)"
    "|(NATS|KAFKA)_(URL|USER|PASSWORD|CA_FILE|LIMIT)$|(PATH|HOME|ENV|IFS)$)[A-Z][A-Z0-9_]{0,60}"
)
_FOLDERS = ("scripts", "dbt", "dags")
_PINNED = re.compile(r"^duckdb==([^\s\\;]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsSection:
    """The keys of `limits:`."""

    memory: Annotated[
        Size | None, Option("Memory that DuckDB may use in a build; default: that of `analytics`.", low=Size("64MiB"))
    ] = None
    threads: Annotated[
        int | None, Option("Number of models that dbt builds in parallel; default: `analytics`.", low=1, high=64)
    ] = None
    timeout: Annotated[Duration, Option("Time of one command.", low=Duration("1s"), high=Duration("7d"))] = Duration(
        "30m"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSection:
    """The keys of a manifest."""

    description: Annotated[str, Option("The pipeline in one line.", pattern=r"[^\x00-\x1f\x7f]{0,200}")] = ""
    schedule: Annotated[
        str | None,
        Option(
            "Schedule of the DAG that homelab generates: a preset, or the five fields of cron.",
            expected="a schedule",
            schema={"pattern": anchored(schedule.PATTERN)},
        ),
    ] = None
    expected_every: Annotated[
        Duration | None, Option("Longest time between two builds; a later one is reported as late.", low=Duration("1m"))
    ] = None
    commands: Annotated[
        Mapping[str, Annotated[str, _SCRIPT]],
        Option(
            "Scripts by command; `fetch`, `build` and `check` are tasks of the generated DAG. Without `build`, homelab "
            "builds the dbt project.",
            keys=KeyNames(_COMMAND, "a command has lower-case letters, digits and underscores"),
        ),
    ] = field(default_factory=dict)
    dag: Annotated[
        str, Option("DAG in `dags/` that runs the pipeline; default: its name.", pattern=r"[\w.-]{1,250}")
    ] = ""
    tasks: Annotated[
        Mapping[str, Annotated[str, _TASK]],
        Option(
            "Tasks of this DAG by command; default: the command.",
            keys=KeyNames(_COMMAND, "a task runs a command of the pipeline"),
        ),
    ] = field(default_factory=dict)
    environment: Annotated[
        Mapping[str, Annotated[str | SecretName, Option(pattern=r"[^\x00-\x1f\x7f]{0,1000}")]],
        Option(
            "Variables of its commands: text, or `{secret: NAME}`.",
            keys=KeyNames(
                _VARIABLE, "a variable has capital letters, digits and underscores, and is none of homelab's"
            ),
        ),
    ] = field(default_factory=dict)
    reads: Annotated[
        tuple[str, ...],
        Option("Pipelines whose published tables its dbt project reads, as sources.", examples=(("weather",),)),
    ] = ()
    corrections: Annotated[
        Corrections | None,
        Option("Table for `homelab pipeline exclude` and `backfill`.", expected="a mapping with table, key and time"),
    ] = None
    limits: Annotated[LimitsSection, Option("Limits of its commands.")] = LimitsSection()
    connections: Connections = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    pools: Pools = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest: the pipeline without `reads`, the names in `reads`, and the section for problems."""

    pipeline: Pipeline
    reads: Sequence[str]
    section: Section


def read_manifest(parent: Section, name: str, folder: Path, duckdb: str, lake: Lake | None = None) -> Manifest | None:
    """Return the manifest of a folder; None if a problem was recorded.

    `duckdb` is the version of DuckDB in the containers, which the scripts' packages must not change.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        parent.problem(f"cannot read {path}: {cause}; `homelab pipeline new {name}` writes an example", "path")
        return None
    before = len(parent.problems.found)
    document = yaml_source.parse(path, text, parent.problems)
    if document.broken:
        return None
    if not isinstance(document.data, dict | None):
        parent.problems.add(document.place(()), (), "must be a mapping")
        return None
    section = replace(parent, document=document, keys=(), data=document.data or {})
    found: ManifestSection = declaration_of(ManifestSection).build(section)
    if len(parent.problems.found) > before:
        return None
    if name == WEATHER and folder != bundled_path("pipelines/weather") and (folder / "schema.sql").exists():
        _problem_at(section, folder / "schema.sql", 1, "homelab makes the tables of `raw`: remove this file")
    for part in _FOLDERS:
        _check_folder(section, folder / part)
    _check_file(section, folder / "dbt" / "dbt_project.yml")
    if len(parent.problems.found) > before:
        return None
    lock = _requirements(section, folder, duckdb)
    pipeline = Pipeline(
        name=name,
        folder=folder,
        description=found.description,
        scripts=dict(found.commands),
        lake=lake,
        has_dbt=(folder / "dbt" / "dbt_project.yml").is_file(),
        has_dags=any((folder / "dags").glob("*.py")),
        # The tables of the weather belong to the server's superuser: homelab makes them.
        schema_versions=() if name == WEATHER else tuple(_versions(section, folder)),
        requirements=lock,
        lock_error=_lock_error(folder, lock),
        environment=dict(found.environment),
        corrections=found.corrections,
        airflow=AirflowObjects(connections=found.connections, variables=found.variables, pools=found.pools),
        dag=found.dag,
        dag_tasks=dict(found.tasks),
        schedule=found.schedule,
        expected_every=found.expected_every,
        memory=found.limits.memory,
        threads=found.limits.threads,
        timeout=found.limits.timeout,
    )
    _check(section, pipeline)
    return Manifest(pipeline, found.reads, section) if len(parent.problems.found) == before else None


def _check_folder(section: Section, path: Path) -> None:
    """Record a problem of a folder that exists but cannot be read: its files would count as missing."""
    if not os.path.lexists(path):
        return
    try:
        os.listdir(path)
        os.stat(path / "x")  # which needs a permission of its own
    except FileNotFoundError:
        if path.is_symlink() and not path.exists():
            _problem_at(section, path, 1, "is a link that leads to nothing")
    except OSError as error:
        _problem_at(section, path, 1, f"cannot be read: {error.strerror}")


def _check_file(section: Section, path: Path) -> None:
    """Record a problem of something that exists in the place of an optional file, and is none."""
    if os.path.lexists(path) and not path.is_file():
        _problem_at(section, path, 1, "is a link that leads to nothing" if path.is_symlink() else "must be a file")


def _check(section: Section, pipeline: Pipeline) -> None:
    if pipeline.is_weather and pipeline.corrections:
        section.problem("the weather has its own: `homelab pipeline exclude --city` and `backfill`", "corrections")
    if pipeline.schedule and (error := schedule.error_in(pipeline.schedule)):
        section.problem(error, "schedule")
    for command, script in pipeline.scripts.items():
        path = script.partition(" ")[0]
        if not (pipeline.folder / path).is_file():
            section.problem(f"{path} does not exist", "commands", command)
    for command in pipeline.dag_tasks:
        if command not in pipeline.commands:
            section.problem("is not a command of the pipeline", "tasks", command)
    if (pipeline.dag or pipeline.dag_tasks) and not pipeline.has_dags:
        section.problem("there are no DAGs in dags/", "dag" if pipeline.dag else "tasks")
    if pipeline.has_dags and pipeline.schedule:
        section.problem("the DAGs in dags/ have their own schedule; remove one of both", "schedule")
    if not pipeline.commands:
        section.problem("has nothing to run: it needs commands, or dbt/dbt_project.yml")


def _versions(section: Section, folder: Path) -> Iterator[SchemaVersion]:
    """Yield the versions in schema.sql; a text without `-- version N` lines is version 1."""
    path = folder / "schema.sql"
    text = _text(section, path)
    if text is None or not text.strip():
        return
    marks = list(_VERSION.finditer(text))
    if not marks:
        yield SchemaVersion(1, text.strip())
    elif any(line.strip() and not line.startswith("--") for line in text[: marks[0].start()].splitlines()):
        _problem_at(section, path, 1, "has SQL before its first line `-- version 1`")
    for number, mark in enumerate(marks, 1):
        if mark[1] != str(number):
            line = text.count("\n", 0, mark.start()) + 1
            _problem_at(section, path, line, f"must be `-- version {number}`: versions count from 1, in order")
            return
        end = marks[number].start() if number < len(marks) else len(text)
        yield SchemaVersion(number, text[mark.end() : end].strip())


def _requirements(section: Section, folder: Path, duckdb: str) -> bytes | None:
    """Return the lock file of the scripts' packages, or None; each line needs a hash."""
    path = folder / "requirements.txt"
    text = _text(section, path)
    if text is None:
        return None
    if "--hash=" not in text:
        _problem_at(
            section, path, 1, f"has no hashes: write requirements.in, then `homelab pipeline lock {folder.name}`"
        )
    if (pinned := _PINNED.search(text)) and pinned[1] != duckdb:
        line = text.count("\n", 0, pinned.start()) + 1
        _problem_at(section, path, line, f"has duckdb {pinned[1]}, but builds use {duckdb}: pin that version")
    return text.encode()


def _lock_error(folder: Path, lock: bytes | None) -> str:
    """Return the reason why a deploy cannot use the lock, or "". `homelab pipeline lock` has to work nevertheless."""
    wanted = folder / "requirements.in"
    if not os.path.lexists(wanted):
        return ""
    try:
        packages = wanted.read_bytes()
    except OSError as error:
        return f"requirements.in cannot be read: {error.strerror}"
    if lock is None:
        return "requirements.in is not locked"
    first = lock.decode().partition("\n")[0] + "\n"
    if first.startswith(LOCKED_BY) and first != lock_header(packages):
        return "requirements.in was changed after it was locked"
    return ""


def _text(section: Section, path: Path) -> str | None:
    """Return the text of an optional file; None if it is missing or a problem was recorded."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return None
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        _problem_at(section, path, 1, f"cannot be read: {cause}")
        return None


def _problem_at(section: Section, path: Path, line: int, text: str) -> None:
    section.problems.add(Place(path, line), (), text)
