"""`pipelines:`, the built-in weather and the user's pipelines by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from homelab.inventory.dashboards_folder import with_dashboards
from homelab.inventory.declaration import SectionOf, declaration_of
from homelab.inventory.pipeline_manifest import Manifest, read_manifest
from homelab.inventory.pipeline_reads import with_reads
from homelab.inventory.pipeline_stream import with_stream
from homelab.inventory.section import Section
from homelab.inventory.value_types import ValueType, anchored, nullable
from homelab.inventory.weather_section import WeatherSection
from homelab.inventory.yaml_source import KeyPath
from homelab.model import Container, Pipeline, Weather
from homelab.model.inventory import RAW, WEATHER, airflow_objects
from homelab.model.lake import CLICKHOUSE, LAKE, Lake, TargetSection
from homelab.model.object_storage import BUCKET, ObjectStorage
from homelab.model.options import Duration, Option
from homelab.model.stages import ANALYTICS
from homelab.paths import bundled_path
from homelab.pipelines.installed import installed_folder

NAME = r"[a-z][a-z0-9_]{0,21}"  # the user in the containers, pipeline-NAME, has at most 31 characters
NAME_RULE = "a pipeline's name has lower-case letters, digits and underscores, begins with a letter, at most 22"
# A name is also a schema and a role: PostgreSQL's reserved words, and the names that it and homelab have themselves.
_RESERVED = re.compile(
    r"all|analyse|analyze|and|any|array|as|asc|asymmetric|authorization|binary|both|case|cast|check|collate|"
    r"collation|column|concurrently|constraint|create|cross|current_catalog|current_date|current_role|"
    r"current_schema|current_time|current_timestamp|current_user|default|deferrable|desc|distinct|do|else|end|"
    r"except|false|fetch|for|foreign|freeze|from|full|grant|group|having|ilike|in|information_schema|initially|"
    r"inner|intersect|into|is|isnull|join|lateral|leading|left|like|limit|localtime|localtimestamp|main|natural|"
    r"none|not|notnull|null|offset|on|only|or|order|outer|overlaps|placing|postgres|primary|public|raw_aside|"
    r"references|returning|right|select|session_user|similar|some|symmetric|system_user|table|tablesample|temp|then|to|"
    r"trailing|true|union|unique|upkeep(_aside)?|user|using|variadic|verbose|when|where|window|with|pg_.*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSection(TargetSection):
    """The keys of a user's pipeline."""

    path: Annotated[
        Path | None,
        Option(
            "Folder of the pipeline, with its `pipeline.yaml`; by default, that of an installed package.",
            examples=("pipelines/prices",),
        ),
    ] = None


class Pipelines(ValueType):
    """The pipelines by name; reading checks only that it is a mapping, and returns it as a Section."""

    def __init__(self) -> None:
        super().__init__("a mapping of pipelines by name")
        self._weather = SectionOf(WeatherSection, "a mapping, as in the commented example that `homelab init` writes")
        self._other = SectionOf(PipelineSection, "a mapping with path")

    def accepts(self, value: object) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, section, at)
        found = section.at(at, value)
        for name, kind in value.items():
            if kind is not None:
                (self._weather if name == WEATHER else self._other).read(kind, found, (name,))
        return found

    def schema(self) -> Mapping[str, Any]:
        weather = {"description": "The built-in pipeline.", **nullable(self._weather.json_schema())}
        return {
            "type": "object",
            "properties": {WEATHER: weather},
            "propertyNames": {"pattern": anchored(NAME)},
            "additionalProperties": nullable(self._other.json_schema()),
        }


def read_pipelines(
    section: Section, containers: Sequence[Container], weather: Weather | None, services: Collection[str]
) -> tuple[Pipeline, ...]:
    """Return the pipelines, the weather first; those with a problem are left out.

    `services` also names those that `containers` lacks because they have a problem.
    """
    taken = _taken_names(section, containers)
    runs = ANALYTICS in services
    manifests: list[Manifest] = []
    folders: dict[str, Path | None] = {WEATHER: weather.folder} if weather and runs else {}
    for name, value in section.data.items():
        if name != WEATHER and isinstance(value, dict | None):
            folders[name] = _other_folder(section, name, taken, runs)
    for name, folder in folders.items():
        lake = weather.lake if weather and name == WEATHER else _lake(section, name)
        if folder and (manifest := read_manifest(section.below(name), name, folder, _duckdb(), lake)):
            if weather and name == WEATHER and weather.clickhouse:
                manifest = replace(manifest, pipeline=replace(manifest.pipeline, clickhouse=True))
                for error in _clickhouse_errors(weather, services):
                    section.problem(error, name, "target")
            manifests.append(manifest)
            if error := _bucket_error(name, containers):
                section.problem(error, name)
            if lake and (error := _lake_error(manifest.pipeline, containers, services)):
                section.problem(error, name, "target")
    found = with_reads(manifests, section.data)
    if weather:
        at = section.below(WEATHER)
        found = tuple(with_stream(each, weather, at) if each.is_weather else each for each in found)
    if any(service.imports_dashboards for each in containers for service in each.services.values()):
        found = with_dashboards(found, section.problems)
    _check_airflow_objects(section, containers, found)
    return found


def _lake(section: Section, name: str) -> Lake | None:
    """Return the lake of another pipeline; its keys are checked with its folder."""
    found = section.data[name] or {}
    if found.get("target") != LAKE:
        return None
    try:
        retention = Duration(str(found.get("snapshot_retention") or TargetSection().snapshot_retention))
    except ValueError:
        return None  # reported with the folder
    return Lake(retention)


def _lake_error(pipeline: Pipeline, containers: Sequence[Container], services: Collection[str]) -> str:
    """Return the reason why a pipeline cannot have a lake, or ""."""
    if not pipeline.has_dbt:
        return "needs a dbt project in dbt/, whose tables are in the lake"
    if pipeline.has_own_build and not pipeline.is_weather:
        return "is for builds by homelab: a `build` script of your own chooses where it builds"
    if "s3" not in services and not any(_object_storages(pipeline.name, containers)):
        return "needs the service `s3`, which no container has"
    return ""


def _clickhouse_errors(weather: Weather, services: Collection[str]) -> Iterator[str]:
    """Yield the reasons why the weather cannot be built in ClickHouse."""
    if CLICKHOUSE not in services:
        yield "needs the service `clickhouse`, which no container has"
    if weather.days == "local":
        yield "needs `days: utc`: the models for ClickHouse have no local days"


def _bucket_error(name: str, containers: Sequence[Container]) -> str:
    """Return the reason why a pipeline cannot have a bucket of the service `s3`, or ""."""
    for storage in _object_storages(name, containers):
        if not re.fullmatch(BUCKET, storage.bucket):
            return f"S3 does not accept the name of its bucket, {storage.bucket}: choose another name of the pipeline"
    return ""


def _object_storages(name: str, containers: Sequence[Container]) -> Iterator[ObjectStorage]:
    for container in containers:
        for service in container.services.values():
            if storage := service.object_storage(container, name):
                yield storage


def _other_folder(section: Section, name: str, taken: Mapping[str, str], runs: bool) -> Path | None:
    if error := name_error(name, taken):
        section.problem(error, name)
    if not runs:
        section.problem("needs the service `analytics`, which no container has", name)
    return _folder(section, name)


def _check_airflow_objects(section: Section, containers: Sequence[Container], pipelines: Sequence[Pipeline]) -> None:
    """Add a problem for each connection, variable and pool that is declared twice."""
    taken: dict[tuple[str, str], str] = {}
    for owner, objects in airflow_objects(containers, pipelines):
        for key in objects.names():
            first = taken.setdefault(key, owner)
            if first != owner:
                section.problem(f"the {' '.join(key)} of Airflow is declared by {first} and by {owner}")


def _folder(section: Section, name: str) -> Path | None:
    """Return the folder of a pipeline; None if a problem was recorded."""
    before = len(section.problems.found)
    given = declaration_of(PipelineSection).read(section.below(name))
    if "path" in given or len(section.problems.found) > before:
        return given.get("path")
    try:
        if folder := installed_folder(name):
            return folder
        section.problem(
            f"needs a path, as no installed package provides it; `homelab pipeline new {name}` writes one", name
        )
    except ValueError as error:
        section.problem(str(error), name)
    return None


def name_error(name: str, taken: Mapping[str, str]) -> str | None:
    """Return the error in a pipeline's name, or None; `taken` maps each name in use to its owner."""
    if not re.fullmatch(NAME, name):
        return NAME_RULE
    if name == WEATHER or _RESERVED.fullmatch(name):
        return f"`{name}` is a reserved word, and the name is also that of a schema and a role: choose another one"
    if name.endswith("_dbt"):
        return "the names that end in `_dbt` are those of dbt's roles: choose another one"
    for each in (name, f"{name}_dbt"):
        if each in taken:
            return f"`{each}` is the name of {taken[each]} already: choose another one"
    return None


def _taken_names(section: Section, containers: Sequence[Container]) -> dict[str, str]:
    weather = "the pipeline `weather`"
    found = {RAW[1]: f"a schema of {weather}", "analytics": f"a role of {weather}", "dbt": f"a role of {weather}"}
    found["weather_new_rows"] = f"a DAG of {weather}"  # another pipeline's name is that of its DAG
    for container in containers:
        for service, each in container.services.items():
            for grant in each.database_grants():
                found.setdefault(grant.role, f"a role of the service `{service}`")
                found.setdefault(grant.schema, f"a schema of the service `{service}`")
    for service in section.registry.names() if section.data else ():
        found.setdefault(service, "a service")  # `homelab prune` takes the names of both
    return found


def _duckdb() -> str:
    """Return the version of DuckDB in the containers' venv."""
    lock = bundled_path("pipelines/shared/requirements/analytics.txt").read_text()
    return next(_pins(lock, "duckdb"))


def _pins(lock: str, package: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(rf"^{re.escape(package)}==([^\s\\;]+)", lock, re.MULTILINE))
