"""The models of a pipeline at two revisions, built from the same rows: only modified models are built twice.

dbt compares the projects (`state:modified+`). The second file starts as a copy of the first one, so an unmodified model
has the same rows in both, even if it depends on the time of its build.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from homelab.errors import HomelabError

Dbt = Callable[[Sequence[str], Mapping[str, str]], "subprocess.CompletedProcess[str]"]


class RowSource(Protocol):
    """The local servers with a pipeline's rows, and the programs that build from them."""

    def dbt(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run dbt with further variables."""

    def build(self, side: Side, is_new: bool) -> None:
        """Build all models of a side; test them if it is new. Raises HomelabError."""


_TABLES = ("model", "seed")  # a snapshot of an earlier state cannot be built again
_NO_TABLE = ("view", "ephemeral")
_KEY_TESTS = {"unique": "column_name", "unique_combination_of_columns": "combination_of_columns"}


@dataclass(frozen=True)
class Side:
    """A dbt project, and the folder of its file and of dbt's output."""

    title: str
    project: Path
    folder: Path

    @property
    def warehouse(self) -> Path:
        """The file with the tables; its name is that of the database in dbt, so it is the same on both sides."""
        return self.folder / "warehouse.duckdb"

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables with which dbt works here."""
        return {
            "DBT_PROJECT_DIR": str(self.project),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "DBT_LOG_PATH": str(self.folder / "logs"),
            "PIPELINE_WAREHOUSE": str(self.warehouse),
        }

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """dbt's description of the project, after a command of dbt."""
        found: Mapping[str, Any] = json.loads((self.folder / "target" / "manifest.json").read_text())
        return found

    @property
    def marts(self) -> Mapping[str, str]:
        """The tables of the schema main, which readers see: dbt's id by name."""
        return {
            str(node["alias"]): key
            for key, node in self.manifest["nodes"].items()
            if node["resource_type"] in _TABLES
            and node["schema"] == "main"
            and node["config"].get("materialized") not in _NO_TABLE
        }

    @property
    def built(self) -> Sequence[str]:
        """dbt's ids of the models and seeds of its last build."""
        results = json.loads((self.folder / "target" / "run_results.json").read_text())["results"]
        return [each["unique_id"] for each in results if each["unique_id"].startswith(_TABLES)]

    def key_of(self, node: str) -> Sequence[str]:
        """Return the columns that identify a row of a model: its primary key, `unique_key`, or a test's; else none."""
        model = self.manifest["nodes"][node]
        keys = (each["columns"] for each in model.get("constraints") or () if each["type"] == "primary_key")
        tests = (each for each in self.manifest["nodes"].values() if each.get("attached_node") == node)
        found: str | Sequence[str] = (
            next(keys, None) or model["config"].get("unique_key") or next(filter(None, map(_tested, tests)), [])
        )
        return [found] if isinstance(found, str) else list(found)

    def reads_raw_rows(self, node: str) -> bool:
        """Return True if a model reads PostgreSQL itself."""
        parents = self.manifest["parent_map"].get(node, ())
        return any(self.manifest["sources"].get(each, {}).get("database") == "pg" for each in parents)


def build_modified(source: RowSource, before: Side | None, after: Side, published: Path | None) -> None:
    """Build all models of the first side, then those of the second that are modified.

    With a published file, both start from a copy of it, and only the modified models are built. Without a first side,
    all models are built. Raises HomelabError if dbt fails.
    """
    if before is None:
        source.build(after, is_new=True)
        return
    if published is None:
        source.build(before, is_new=False)
    else:
        shutil.copyfile(published, before.warehouse)
        run(source.dbt, before, ["parse"])
    shutil.copyfile(before.warehouse, after.warehouse)
    state = ["--defer", "--state", str(before.folder / "target")]
    selected = ["--select", "state:modified+", "--exclude", "resource_type:snapshot,state:old"]
    run(source.dbt, after, ["build", "--full-refresh", *selected, *state])
    known = before.manifest["nodes"]
    names = [".".join(known[each]["fqn"]) for each in after.built if each in known]
    if published is not None and names:
        kinds = [f"--resource-type={kind}" for kind in _TABLES]
        run(source.dbt, before, ["build", "--full-refresh", *kinds, "--select", *names])


def run(dbt: Dbt, side: Side, words: Sequence[str]) -> None:
    """Run dbt on one side. Raises HomelabError with its errors."""
    done = dbt(["--no-use-colors", *words], side.variables)
    if done.returncode:
        raise HomelabError(
            f"Cannot compare the marts: dbt failed on {side.title}",
            "\n".join(_problems(side)) or (done.stdout + done.stderr).strip()[-2000:],
            "Correct the model or the test, then run the same command again.",
        )


def _problems(side: Side) -> list[str]:
    path = side.folder / "target" / "run_results.json"
    results = json.loads(path.read_text())["results"] if path.exists() else []
    failed = (each for each in results if each["status"] in ("error", "fail"))
    return [f"{each['unique_id']}: {' '.join(str(each['message']).split())[:500]}" for each in failed][:10]


def _tested(test: Mapping[str, Any]) -> Any:
    """Return the columns that a test requires to be unique, or None."""
    metadata = test.get("test_metadata") or {}
    return metadata.get("kwargs", {}).get(_KEY_TESTS.get(str(metadata.get("name")), ""))
