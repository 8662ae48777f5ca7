"""A pipeline: a folder with a manifest, shipped with homelab or next to the inventory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from homelab.model.airflow_objects import AirflowObjects
from homelab.model.dashboards import DashboardAsset
from homelab.model.inventory import DATABASE, RAW, WEATHER, DatabaseGrant
from homelab.model.lake import LAKE, Lake
from homelab.model.options import Duration, Option, SecretName, Size
from homelab.model.stages import ANALYTICS, BUILD, CHECK, FETCH, STAGES, Stage, stage_of

MANIFEST = "pipeline.yaml"
LOCKED_BY = "# Locked by `homelab pipeline lock`"
ORDER = (FETCH, BUILD, CHECK)  # of the tasks in a generated DAG
# Of the built-in pipeline: the roles of its scripts and of dbt.
_WEATHER_ROLES = ("analytics", "dbt")


def lock_header(requirements: bytes) -> str:
    """Return the first line of a lock that homelab writes, for the content of a requirements.in."""
    digest = hashlib.sha256(requirements).hexdigest()[:16]
    return f"{LOCKED_BY} from requirements.in {digest}: do not edit.\n"


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version of `schema.sql`: its number, and the SQL that upgrades the previous version."""

    number: int
    sql: str = field(repr=False)


_COLUMN = Option(pattern="[a-z_][a-z0-9_]{0,50}", expected="a name with lower-case letters, digits and underscores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """The table of a pipeline whose rows can be excluded, and stored from a file."""

    table: Annotated[str, Option("Table of schema.sql.", pattern=_COLUMN.pattern, expected=_COLUMN.expected)]
    key: Annotated[
        tuple[Annotated[str, _COLUMN], ...],
        Option("Columns that, with `time`, identify a row.", empty="needs a column"),
    ]
    time: Annotated[
        str, Option("Column with the time of a row, a timestamptz.", pattern=_COLUMN.pattern, expected=_COLUMN.expected)
    ]

    @property
    def view(self) -> str:
        """The view of the rows that are not excluded."""
        return f"{self.table}_included"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline: its folder, and the values of its manifest; names and grants are derived from its name."""

    name: str
    folder: Path
    description: str
    scripts: Mapping[str, str]  # command → script with its arguments, relative to the folder
    has_dbt: bool
    has_dags: bool
    lake: Lake | None = None  # of its dbt project; otherwise one DuckDB file
    clickhouse: bool = False  # the service builds its models
    reads: Mapping[str, Path] = field(default_factory=dict)  # pipelines whose tables it reads → their dbt projects
    schema_versions: Sequence[SchemaVersion] = ()
    requirements: bytes | None = field(default=None, repr=False)  # lock of the scripts' packages, with hashes
    lock_error: str = ""  # the reason why the lock cannot be used
    environment: Mapping[str, str | SecretName] = field(default_factory=dict)  # further variables of its commands
    corrections: Corrections | None = None
    airflow: AirflowObjects = field(default_factory=AirflowObjects)
    dag: str = ""  # id of its own DAG
    dag_tasks: Mapping[str, str] = field(default_factory=dict)  # command → task of its own DAG
    schedule: str | None = None
    expected_every: Duration | None = None
    memory: Size | None = None  # of DuckDB; by default, that of the service that runs it
    threads: int | None = None  # of dbt, in the same way
    timeout: Duration = Duration("30m")  # of one command
    dashboards: tuple[DashboardAsset, ...] = ()  # read only if a service of the inventory imports them

    @property
    def is_weather(self) -> bool:
        """True for the built-in pipeline, or the user's copy of it."""
        return self.name == WEATHER

    @property
    def schema(self) -> str:
        """The schema of its tables in project_data."""
        return RAW[1] if self.is_weather else self.name

    @property
    def writer(self) -> str:
        """The role of its scripts, which owns the schema; that of the weather only appends to it."""
        return _WEATHER_ROLES[0] if self.is_weather else self.name

    @property
    def reader(self) -> str:
        """The role of dbt, which reads the schema."""
        return _WEATHER_ROLES[1] if self.is_weather else f"{self.name}_dbt"

    @property
    def database_grants(self) -> Sequence[DatabaseGrant]:
        """The grants of both roles."""
        return tuple(grant for stage in STAGES for grant in self.grants_of(stage))

    def grants_of(self, stage: Stage) -> Sequence[DatabaseGrant]:
        """Return all grants of a stage's role: with a lake, the role of dbt owns its catalog."""
        catalog = (self.catalog_grant,) if self.lake and stage == ANALYTICS else ()
        return (self.grant_of(stage), *catalog)

    @property
    def catalog_grant(self) -> DatabaseGrant:
        """The grant for the catalog of its lake."""
        return DatabaseGrant(LAKE, self.reader, "own", self.name)

    def grant_of(self, stage: Stage) -> DatabaseGrant:
        """Return the grant of a stage's role: the ingestion writes, the builds read."""
        if stage == ANALYTICS:
            return DatabaseGrant(DATABASE, self.reader, "read", self.schema)
        return DatabaseGrant(DATABASE, self.writer, "append" if self.is_weather else "own", self.schema)

    @property
    def secrets(self) -> Mapping[str, SecretName]:
        """The variables of its `environment` that are secrets."""
        return {name: value for name, value in self.environment.items() if isinstance(value, SecretName)}

    @property
    def plain_variables(self) -> Mapping[str, str]:
        """The other variables of its `environment`."""
        return {name: value for name, value in self.environment.items() if not isinstance(value, SecretName)}

    @property
    def requirements_in(self) -> Path:
        """The file with the packages of its scripts, which may be missing."""
        return self.folder / "requirements.in"

    @property
    def requirements_lock(self) -> Path:
        """The lock of these packages, which may be missing."""
        return self.folder / "requirements.txt"

    @property
    def commands(self) -> Sequence[str]:
        """All commands, the tasks of a DAG first; with a dbt project, `build` is one of them."""
        found = {*self.scripts, *([BUILD] if self.has_dbt else [])}
        return (*self.tasks, *sorted(found.difference(ORDER)))

    def commands_of(self, stage: Stage) -> Sequence[str]:
        """Return the commands of a stage."""
        return [command for command in self.commands if stage_of(command) == stage]

    def has_scripts_in(self, stage: Stage) -> bool:
        """Return True if a command of the stage is a script of its own."""
        return any(command in self.scripts for command in self.commands_of(stage))

    @property
    def dag_id(self) -> str:
        """The id of the DAG that runs it."""
        return self.dag or self.name

    def task(self, command: str) -> str:
        """Return the task of its DAG that runs a command."""
        return self.dag_tasks.get(command, command)

    @property
    def has_own_build(self) -> bool:
        """True if a script of its own builds the dbt project."""
        return BUILD in self.scripts

    @property
    def tasks(self) -> Sequence[str]:
        """The commands that a generated DAG runs, in order."""
        return tuple(name for name in ORDER if name in self.scripts or (name == BUILD and self.has_dbt))

    def gate_entry(self, command: str) -> str:
        """Return the name of a command in the SSH gate."""
        return f"{self.name}.{command}"
