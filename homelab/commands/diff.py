"""`homelab diff`: the differences of the marts between a git revision and the working tree, from the same rows."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.dev import local_stack, own_pipeline
from homelab.dev.install import install
from homelab.dev.model_builds import Side, build_modified
from homelab.dev.revision import Revision, at_revision
from homelab.dev.row_sources import OwnRows, WeatherRows
from homelab.errors import HomelabError, InputError
from homelab.model import Pipeline
from homelab.paths import bundled_path
from homelab.pipelines.installed import of_user
from homelab.pipelines.weather import BUILT_IN
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.session import Session


@dataclass(frozen=True)
class ColumnDiff:
    """A changed column: its types, "" on a side that does not have it, and the number of rows with another value."""

    name: str
    type_before: str
    type_after: str
    rows: int

    def __str__(self) -> str:
        if not self.type_before or not self.type_after:
            return f"{'-' if self.type_before else '+'} {self.name}"
        if self.type_before != self.type_after:
            return f"{self.name}: {self.type_before} → {self.type_after}" + (f", {self.rows} rows" if self.rows else "")
        return f"{self.name}: {self.rows} rows"


@dataclass(frozen=True)
class MartDiff:
    """The differences of one mart. `change` is added, removed, changed or same; without a key, no row is `changed`."""

    name: str
    change: str
    rows_before: int = 0
    rows_after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    key: Sequence[str] = ()
    columns: Sequence[ColumnDiff] = ()


@dataclass(frozen=True)
class PipelineDiff:
    """The differences of a pipeline's marts; `unmodified` counts those that no modified code reaches."""

    pipeline: str
    revision: str
    commit: str
    marts: Sequence[MartDiff]
    unmodified: int
    notes: Sequence[str]

    def __bool__(self) -> bool:
        return any(mart.change != "same" for mart in self.marts)


@dataclass(frozen=True)
class Comparison:
    """The options of a comparison: the revision, and the rows that both sides are built from."""

    revision: str
    published: Path | None = None
    fetch: bool = False


def compare(session: Session, pipelines: Sequence[Pipeline], wanted: Comparison) -> Sequence[PipelineDiff]:
    """Compare the marts of pipelines with those of a revision. Raises InputError, or HomelabError if dbt fails."""
    if wanted.published and len(pipelines) != 1:
        raise InputError(
            "Cannot compare several pipelines with one published file", "", "Name the pipeline: `homelab diff REV NAME`"
        )
    if wanted.published and not wanted.published.is_file():
        raise InputError(
            f"Cannot read {wanted.published}: it does not exist", "", "Copy the published file: `homelab pull`"
        )
    folder = local_stack.folder_of(session.inventory.state_dir)
    local_stack.create(folder)
    with lab_lock(folder, "diff"):
        return [_compare(session, each, wanted, folder) for each in pipelines]


def chosen_pipelines(session: Session, name: str | None) -> Sequence[Pipeline]:
    """Return the pipeline of this name, or all of the user with a dbt project. Raises InputError if there is none."""
    inventory = session.inventory
    chosen = [inventory.pipeline(name)] if name else of_user(inventory.pipelines)
    found = [each for each in chosen if each.has_dbt]
    if not found:
        raise InputError(
            "Cannot compare the marts: there is no dbt project of your own",
            f"{inventory.path} names none.",
            "`homelab pipeline new NAME` writes an example; `homelab pipeline copy weather` copies the weather.",
        )
    return found


def _compare(session: Session, pipeline: Pipeline, wanted: Comparison, folder: Path) -> PipelineDiff:
    installed, progress = install(folder, session.progress), session.progress
    weather = pipeline.folder if pipeline.is_weather else BUILT_IN
    with (
        at_revision(pipeline.folder, wanted.revision) as revision,
        tempfile.TemporaryDirectory() as scratch,
        local_stack.running(folder, installed, wanted.fetch and pipeline.is_weather, weather) as stack,
    ):
        source: OwnRows | WeatherRows = WeatherRows(stack)
        if not pipeline.is_weather:
            source = OwnRows(own_pipeline.set_up(stack, pipeline, session.secrets, progress))
        if wanted.fetch:
            source.fetch(progress)
        before, after = _sides(pipeline, revision, wanted.revision, Path(scratch))
        with progress.step("dev", f"the models of {pipeline.name}, at {wanted.revision} and changed"):
            build_modified(source, before, after, wanted.published)
        marts, unmodified = _marts(str(installed.python), before, after)
        return PipelineDiff(
            pipeline.name, wanted.revision, revision.commit, marts, unmodified, list(_notes(before, after, wanted))
        )


def _sides(pipeline: Pipeline, revision: Revision, name: str, scratch: Path) -> tuple[Side | None, Side]:
    """Return both sides; the first one is None if the revision has no dbt project of the pipeline."""
    sides = []
    for title, folder, where in ((name, revision.folder, "before"), ("the working tree", pipeline.folder, "after")):
        if folder is None or not (folder / "dbt" / "dbt_project.yml").is_file():
            continue
        project, root = folder / "dbt", scratch / where
        root.mkdir()
        if pipeline.reads:
            own_pipeline.copy_project(project, pipeline.reads, root / "dbt")
            project = root / "dbt"
        sides.append(Side(f"{title} of {pipeline.name}", project, root))
    return (sides[0], sides[1]) if len(sides) > 1 else (None, sides[-1])


def _marts(python: str, before: Side | None, after: Side) -> tuple[Sequence[MartDiff], int]:
    """Return the compared marts by name, and the number of those that no modified code reaches."""
    old, new, built = before.marts if before else {}, after.marts, set(after.built)
    both = sorted(name for name in new if name in old and new[name] in built)
    found = [*_compared(python, before, after, both)] if before else []
    found += [MartDiff(name, "added", rows_after=rows) for name, rows in _rows(python, after, new.keys() - old.keys())]
    if before:
        gone = old.keys() - new.keys()
        found += [MartDiff(name, "removed", rows_before=rows) for name, rows in _rows(python, before, gone)]
    return sorted(found, key=lambda mart: mart.name), len(old.keys() & new.keys()) - len(both)


def _compared(python: str, before: Side, after: Side, names: Sequence[str]) -> Iterator[MartDiff]:
    for each in _script(python, before, after, {name: after.key_of(after.marts[name]) for name in names}):
        columns = [ColumnDiff(**column) for column in each.pop("columns")]
        counts = (each["added"], each["removed"], each["changed"])
        yield MartDiff(**each, change="changed" if any(counts) or columns else "same", columns=columns)


def _rows(python: str, side: Side, names: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield the number of rows of each table on one side."""
    for each in _script(python, side, side, {name: () for name in names}):
        yield each["name"], each["rows_after"]


def _script(python: str, before: Side, after: Side, keys: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    if not keys:
        return []
    tables = [{"name": name, "key": list(key)} for name, key in keys.items()]
    request = {"before": str(before.warehouse), "after": str(after.warehouse), "tables": tables}
    script = str(bundled_path("pipelines/shared/scripts/diff_marts.py"))
    done = subprocess.run([python, script], input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise HomelabError(
            "Cannot compare the marts: DuckDB refuses it",
            done.stderr.strip()[-1500:],
            "If the published file is of another version of homelab, run `homelab deploy` and `homelab pull` again.",
        )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _notes(before: Side | None, after: Side, wanted: Comparison) -> Iterator[str]:
    if before is None:
        yield f"{wanted.revision} does not have this pipeline: all marts are new"
    if wanted.published and (raw := [each for each in after.built if after.reads_raw_rows(each)]):
        names = ", ".join(sorted(each.rpartition(".")[2] for each in raw))
        yield f"{names}: built from the rows in this machine's PostgreSQL, as the published file has no raw rows"
