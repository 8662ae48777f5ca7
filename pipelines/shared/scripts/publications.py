"""The published files of the pipelines that a project reads: the variable READS_NAME has the path of each.

dbt attaches each file read-only. A file that is missing or cannot be read is replaced by an empty database, and the
models that read it are left out of the build.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

_PREFIX = "READS_"
_EMPTY = ":memory:"


@dataclass(frozen=True, slots=True)
class Publications:
    """The variables for dbt, and the problem of each pipeline whose tables cannot be read."""

    variables: Mapping[str, str]
    problems: Mapping[str, str]


def inspect(environment: Mapping[str, str]) -> Publications:
    """Open each published file; its link is resolved, so that a whole build reads one file."""
    variables, problems = {}, {}
    for variable, text in environment.items():
        if variable.startswith(_PREFIX):
            if problem := _problem(Path(text)):
                problems[variable.removeprefix(_PREFIX)] = problem
            variables[variable] = _EMPTY if problem else os.path.realpath(text)
    return Publications(variables, problems)


def _problem(path: Path) -> str:
    try:
        if not path.exists():
            return "it has published nothing yet: run it first"
        if not path.is_file():  # a pipe would block
            return "its published file is no file: run it again"
        with duckdb.connect(str(path), read_only=True):
            return ""
    except (OSError, duckdb.Error) as error:
        return f"its published file cannot be read: {' '.join(str(error).split())}"


def without(names: Iterable[str]) -> list[str]:
    """Return dbt's options that leave out everything that reads these pipelines."""
    selectors = [f"source:{name}+" for name in names]
    return ["--exclude", *selectors] if selectors else []


def failed_readers(target: Path, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the pipelines whose readers have failed in the last build, each with the first message.

    Empty if a node that reads no other pipeline has failed, or if dbt wrote no results.
    """
    names = [variable.removeprefix(_PREFIX) for variable in environment if variable.startswith(_PREFIX)]
    if not names or not (target / "run_results.json").exists():
        return {}
    children = json.loads((target / "manifest.json").read_text())["child_map"]
    results = json.loads((target / "run_results.json").read_text())["results"]
    failed = {each["unique_id"]: str(each["message"]) for each in results if each["status"] in ("error", "fail")}
    found, explained = {}, set[str]()
    for name in names:
        if readers := [node for node in failed if node in _below(name, children)]:
            found[name] = f"{readers[0]}: {' '.join(failed[readers[0]].split())}"
            explained |= set(readers)
    return found if explained == set(failed) else {}


def _below(name: str, children: Mapping[str, list[str]]) -> set[str]:
    """Return the nodes below the sources of a pipeline."""
    found = set[str]()
    pending = [node for node in children if node.startswith("source.") and node.split(".")[2] == name]
    while pending:
        new = set(children.get(pending.pop(), ())) - found
        found |= new
        pending += new
    return found
