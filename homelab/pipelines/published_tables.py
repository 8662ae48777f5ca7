"""The tables that a pipeline publishes, read from the files of its dbt project: the sources of pipelines that read it.

The files are known before the first build, and are as trusted as the inventory. The published file is neither: its
names and comments come from a container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homelab.errors import InputError
from homelab.host import UNREADABLE
from homelab.local_files import files_below, read_within
from homelab.steps import Tree
from homelab.steps.trees import is_left_over

_KINDS = {"models": (".sql", ".py"), "seeds": (".csv",), "snapshots": (".sql",)}
_CONFIG = re.compile(r"\{\{\s*config\((.*?)\)\s*\}\}", re.DOTALL)
_SETTING = re.compile(r"\b(schema|alias|enabled|materialized)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|(\w+))")
_SNAPSHOT = re.compile(r"\{%-?\s*snapshot\s+(\w+)\s*-?%\}")
_HEADER = "# Written by homelab from the dbt projects of the pipelines that `reads` in pipeline.yaml names.\n"
_PROJECT = "dbt_project.yml"
MAIN = "main"


@dataclass(frozen=True, slots=True)
class Table:
    """A published table; the columns are those that its project describes, with their descriptions."""

    name: str
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


def project_files(project: Path, reads: Mapping[str, Path], within: Path | None = None) -> Mapping[str, bytes]:
    """Return the files of a dbt project, with the sources of the pipelines that it reads. Raises InputError."""
    files = dict(Tree.of("", project, within=within).files)
    if reads:
        folder = _paths(project, _load(project / _PROJECT), "models")[0]
        files[f"{folder}/published_sources.yml"] = _sources(reads)
    return files


def published_tables(project: Path) -> Sequence[Table]:
    """Return the tables of a project's schema `main`, by name. Raises InputError for a file that is no YAML."""
    settings = _load(project / _PROJECT)
    found = dict[str, Table]()
    for kind, suffixes in _KINDS.items():
        defaults = (_mapping(project / _PROJECT, settings, kind), str(settings.get("name")))
        for path in _paths(project, settings, kind):
            described = _described(project / path, kind)
            for file in files_below(project / path, ignored=is_left_over):
                if file.suffix in suffixes:
                    parts = file.relative_to(project / path).parts[:-1]
                    for table in _tables(file, kind, described, _folder_config(*defaults, parts)):
                        found[table.name] = table
    return [found[name] for name in sorted(found)]


def _sources(reads: Mapping[str, Path]) -> bytes:
    import yaml

    sources = [
        {
            "name": name,
            "description": f"The published tables of the pipeline {name}. Read-only.",
            "database": f"published_{name}",
            "schema": MAIN,
            "tables": [
                {
                    "name": table.name,
                    "description": table.description,
                    "columns": [{"name": column, "description": text} for column, text in table.columns.items()],
                }
                for table in published_tables(project)
            ],
        }
        for name, project in reads.items()
    ]
    return (_HEADER + yaml.safe_dump({"sources": sources}, sort_keys=False, width=120)).encode()


def _tables(
    file: Path, kind: str, described: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]
) -> Iterator[Table]:
    """Yield the published table of a file; a file of snapshots may have several."""
    text = "" if kind == "seeds" else read_within(file, None).decode(errors="replace")
    inline = _inline_config(text)
    for name in _SNAPSHOT.findall(text) if kind == "snapshots" else [file.stem]:
        properties = described.get(name, {})
        config = {**defaults, **_plain(properties.get("config") or {}), **inline}
        is_built = str(config.get("enabled", True)).lower() != "false" and config.get("materialized") != "ephemeral"
        if is_built and config.get("schema") in (None, MAIN):
            columns = properties.get("columns") or []
            yield Table(
                str(config.get("alias") or name),
                _text(properties),
                {str(column["name"]): _text(column) for column in columns if "name" in column},
            )


def _text(properties: Mapping[str, Any]) -> str:
    """Return a description; "" for one with Jinja, which dbt would render in the project that reads it."""
    text = " ".join(str(properties.get("description") or "").split())
    return "" if re.search(r"\{[{%#]", text) else text


def _inline_config(text: str) -> Mapping[str, str]:
    return {key: a or b or c for call in _CONFIG.findall(text) for key, a, b, c in _SETTING.findall(call)}


def _folder_config(config: Mapping[str, Any], project: str, parts: Sequence[str]) -> Mapping[str, Any]:
    """Return the settings of dbt_project.yml for a folder: those of a deeper level replace the others."""
    found = _plain(config)
    for part in (project, *parts):
        below = config.get(part)
        if not isinstance(below, dict):
            break
        config = below
        found |= _plain(config)
    return found


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).removeprefix("+"): value for key, value in config.items() if not isinstance(value, dict)}


def _described(folder: Path, kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the properties of models, seeds or snapshots by name."""
    files = [file for file in files_below(folder, ignored=is_left_over) if file.suffix in (".yml", ".yaml")]
    found = {}
    for file in files:
        for each in _mappings(file, _load(file), kind):
            _mapping(file, each, "config")
            _mappings(file, each, "columns")
            if "name" in each:
                found[str(each["name"])] = each
    return found


def _paths(project: Path, settings: Mapping[str, Any], kind: str) -> Sequence[str]:
    key = f"{kind.removesuffix('s')}-paths"
    paths = settings.get(key) or [kind]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise _unusable(project / _PROJECT, f"`{key}` must be a list of paths")
    return paths


def _mapping(file: Path, settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = settings.get(key) or {}
    if not isinstance(found, dict):
        raise _unusable(file, f"`{key}` must be a mapping")
    return found


def _mappings(file: Path, settings: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = settings.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _unusable(file, f"`{key}` must be a list of mappings")
    return found


def _load(file: Path) -> Mapping[str, Any]:
    import yaml

    content = read_within(file, None)
    try:
        # The parser in C is ten times as fast, and each command reads these files.
        found = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(content.decode()).get_single_data()
    except (yaml.YAMLError, RecursionError, *UNREADABLE) as error:  # those of PyYAML's constructors, such as for a date
        raise _unusable(file, "not valid YAML", str(error)) from None
    return found if isinstance(found, dict) else {}


def _unusable(file: Path, cause: str, details: str = "") -> InputError:
    return InputError(f"Cannot read the tables of a dbt project: {file}: {cause}", details, "Correct the file.")
