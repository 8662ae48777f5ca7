"""The folder `dashboards/` of a pipeline: the files of a Superset export, checked against each other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homelab.errors import InputError
from homelab.host import UNREADABLE
from homelab.inventory import yaml_source
from homelab.inventory.errors import Place, Problems, did_you_mean
from homelab.inventory.yaml_source import Document, KeyPath
from homelab.local_files import files_below
from homelab.model import Pipeline
from homelab.model.dashboards import (
    FOLDER,
    KINDS,
    DashboardAsset,
    Kind,
    canonical,
    chart_uuids,
    connection_uuid,
    filter_datasets,
)
from homelab.pipelines.published_tables import MAIN, published_tables

_IGNORED = ("metadata.yaml", "databases")  # parts of a Superset export; the connections are homelab's
_KEYS: Mapping[Kind, Sequence[str]] = {
    "dataset": ("table_name",),
    "chart": ("slice_name", "viz_type", "dataset_uuid"),
    "dashboard": ("dashboard_title", "position"),
}
_MAPPINGS: Mapping[Kind, Sequence[str]] = {"dataset": (), "chart": ("params",), "dashboard": ("metadata", "position")}
_LISTS: Mapping[Kind, Sequence[str]] = {"dataset": ("columns", "metrics"), "chart": (), "dashboard": ()}


def with_dashboards(pipelines: Sequence[Pipeline], problems: Problems) -> tuple[Pipeline, ...]:
    """Return the pipelines with the content of their dashboards; record every problem of these files."""
    taken: dict[str, Place] = {}
    return tuple(replace(each, dashboards=_Folder(each, problems, taken).read()) for each in pipelines)


@dataclass(frozen=True, slots=True)
class _File:
    """A file with one asset: its kind, its path, its content, and the places of the values."""

    kind: Kind
    path: Path
    content: Mapping[str, Any]
    document: Document


@dataclass(frozen=True, slots=True)
class _Folder:
    """The dashboards of one pipeline; `taken` has the place of each uuid of all pipelines."""

    pipeline: Pipeline
    problems: Problems
    taken: dict[str, Place]

    @property
    def _root(self) -> Path:
        return self.pipeline.folder / FOLDER

    def read(self) -> tuple[DashboardAsset, ...]:
        """Return the datasets, charts, and dashboards, in this order; none if a file has a problem."""
        before = len(self.problems.found)
        files = [file for path in self._paths() if (file := self._file(path))]
        found = {kind: {str(file.content["uuid"]): file for file in files if file.kind == kind} for kind in KINDS}
        self._check_tables(found["dataset"].values())
        for file in found["chart"].values():
            if file.content["dataset_uuid"] not in found["dataset"]:
                self._problem(file, ("dataset_uuid",), "no dataset in datasets/ has this uuid")
        for file in found["dashboard"].values():
            self._check_dashboard(file, found)
        if len(self.problems.found) > before:
            return ()
        return tuple(
            DashboardAsset(kind, file.content, str(file.path.relative_to(self._root)))
            for kind in KINDS
            for file in found[kind].values()
        )

    def _paths(self) -> Iterator[Path]:
        folders = [f"{kind}s" for kind in KINDS]
        allowed = ", ".join(f"{each}/" for each in folders)
        try:
            files = list(files_below(self._root, self.pipeline.folder, lambda name: name.startswith(".")))
        except InputError as error:
            self.problems.add(Place(self._root, 1), (), f"{error.brief}. {error.details}")
            return
        for path in files:
            parts = path.relative_to(self._root).parts
            if parts[0] in _IGNORED:
                continue
            if len(parts) > 1 and parts[0] in folders and path.suffix in (".yaml", ".yml"):
                yield path
            else:
                self.problems.add(Place(path, 1), (), f"must be a .yaml file in {allowed} of {FOLDER}/")

    def _file(self, path: Path) -> _File | None:
        """Return a file for the comparison with the others; None after a problem."""
        kind = next(each for each in KINDS if path.relative_to(self._root).parts[0] == f"{each}s")
        before = len(self.problems.found)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            self.problems.add(Place(path, 1), (), f"cannot be read: {cause}")
            return None
        document = yaml_source.parse(path, text, self.problems)
        if len(self.problems.found) > before:
            return None
        if not isinstance(document.data, dict):
            self.problems.add(Place(path, 1), (), f"must be a mapping, as Superset exports a {kind}")
            return None
        file = _File(kind, path, document.data, document)
        self._check_keys(file)
        if len(self.problems.found) > before:
            return None
        try:
            content = canonical(kind, document.data)
            if kind == "dashboard":
                _references(content)
            return replace(file, content=content)
        except UNREADABLE as error:
            self.problems.add(
                Place(path, 1), (), f"is not a {kind} as Superset exports it ({type(error).__name__}: {error})"
            )
            return None

    def _check_keys(self, file: _File) -> None:
        content = file.content
        self._check_uuid(file)
        for key in _KEYS[file.kind]:
            if content.get(key) in (None, "", {}):
                self._problem(file, (), f"{key} is missing")
            elif key not in _MAPPINGS[file.kind] and isinstance(content[key], dict | list):
                self._problem(file, (key,), "must be text")
        for key in _MAPPINGS[file.kind]:
            if not isinstance(content.get(key), dict | None):
                self._problem(file, (key,), "must be a mapping")
        for key in _LISTS[file.kind]:
            value = content.get(key)
            if not isinstance(value, list | None) or not all(isinstance(each, dict) for each in value or ()):
                self._problem(file, (key,), "must be a list of mappings")
        wanted = connection_uuid(self.pipeline.name)
        if file.kind == "dataset" and content.get("database_uuid", wanted) != wanted:
            self._problem(
                file, ("database_uuid",), f"must be {wanted}, the connection of {self.pipeline.name}; omit it"
            )

    def _check_uuid(self, file: _File) -> None:
        value = file.content.get("uuid")
        try:
            if value is None or str(uuid.UUID(str(value))) != value:
                raise ValueError
        except ValueError:
            if value is None:
                self._problem(file, (), f"uuid is missing: add one, such as `uuid: {_example(file)}`")
            else:
                self._problem(file, ("uuid",), f"must be a uuid in lower-case letters, such as {_example(file)}")
            return
        place = file.document.place(("uuid",))
        if (first := self.taken.setdefault(value, place)) != place:
            self._problem(file, ("uuid",), f"is already used in {first}")

    def _check_tables(self, datasets: Any) -> None:
        physical = [each for each in datasets if not each.content.get("sql")]
        physical = [each for each in physical if each.content.get("schema") in (None, "", MAIN)]
        if not physical:
            return
        if not self.pipeline.has_dbt:
            self._problem(physical[0], ("table_name",), "the pipeline publishes no tables: it has no dbt/")
            return
        tables = [each.name for each in published_tables(self.pipeline.folder / "dbt")]
        for file in physical:
            name = str(file.content["table_name"])
            if name not in tables:
                self._problem(
                    file, ("table_name",), f"the pipeline publishes no table `{name}`; {did_you_mean(name, tables)}"
                )

    def _check_dashboard(self, file: _File, found: Mapping[Kind, Mapping[str, _File]]) -> None:
        charts, datasets = _references(file.content)
        for key, chart in charts.items():
            if chart not in found["chart"]:
                self._problem(file, ("position", key, "meta", "uuid"), "no chart in charts/ has this uuid")
        for dataset in datasets:
            if dataset not in found["dataset"]:
                keys = ("metadata", "native_filter_configuration")
                self._problem(file, keys, f"no dataset in datasets/ has the uuid {dataset}")

    def _problem(self, file: _File, keys: KeyPath, text: str) -> None:
        self.problems.add(file.document.place(keys), keys, text)


def _references(dashboard: Mapping[str, Any]) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the uuids of a dashboard's charts, by their places, and those of its filters' datasets.

    Raises one of UNREADABLE for content of another form.
    """
    return chart_uuids(dashboard["position"]), filter_datasets(dashboard.get("metadata") or {})


def _example(file: _File) -> str:
    """Return an example of a uuid, derived from the path of the file, so that it is the same each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(file.path.parts[-4:])))
