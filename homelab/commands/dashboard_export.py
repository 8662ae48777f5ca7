"""`homelab dashboard export`: write the dashboards of Superset to the folder of their pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.host import check, expected_format
from homelab.model import Pipeline
from homelab.model.dashboards import FOLDER, DashboardAsset, connection_uuid
from homelab.pipelines.dashboard_files import file_name, file_text
from homelab.runtime.session import Session
from homelab.services.superset_dashboards import records_query, superset_access


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that the export writes or removes.

    `edited_here` is True if the present file is not the one that was deployed.
    """

    path: str
    asset: str
    action: str  # add, change, remove
    edited_here: bool = False
    text: str = field(default="", repr=False)

    def __str__(self) -> str:
        warning = "; the file was changed here after the last deploy" if self.edited_here else ""
        return f"{self.action} {self.path} ({self.asset}{warning})"


@dataclass(frozen=True, slots=True)
class DashboardChanges:
    """The changes of a folder, the number of files that stay, and the dashboards left out, with the reasons."""

    folder: str
    changes: Sequence[FileChange]
    unchanged: int
    left_out: Mapping[str, str]

    @property
    def overwrites(self) -> bool:
        """True if a present file is changed or removed."""
        return any(each.action != "add" for each in self.changes)

    def write(self) -> None:
        """Write and remove the files. Raises HomelabError if the folder cannot be written."""
        try:
            for each in self.changes:
                path = Path(self.folder) / each.path
                if each.action == "remove":
                    path.unlink(missing_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(each.text, encoding="utf-8")
        except OSError as error:
            raise HomelabError(
                f"Cannot write the dashboards to {self.folder}: {error.strerror}",
                str(error.filename or ""),
                "Correct the permissions of the folder, then run the same command again.",
            ) from error


def find_changes(session: Session, name: str | None) -> DashboardChanges:
    """Compare the dashboards in Superset with the files of a pipeline; change nothing.

    Raises InputError for a missing service, and for the built-in weather, whose folder is homelab's.
    """
    pipeline = session.inventory.chosen_pipeline(name)
    container = session.inventory.container_with("superset")
    _require_own_folder(pipeline, session.inventory.path.parent)
    access, action = superset_access(), f"read the dashboards of {pipeline.name}"
    with session.connect(container) as host, session.progress.step(container.name, action):
        answer = check(host, records_query(access), action)
        with expected_format(host.name, action):
            records: Mapping[str, Any] = json.loads(answer.text).get(pipeline.name) or {}
        found = access.export(
            host,
            "export dashboards",
            action,
            database=connection_uuid(pipeline.name),
            known=[(each.kind, each.uuid) for each in pipeline.dashboards],
        )
    changes = [*_written(pipeline, found.assets, records), *_removed(pipeline, found.assets, records)]
    kept = {each.uuid for each in pipeline.dashboards}
    unchanged = len(kept) - sum(each.action != "add" for each in changes)
    return DashboardChanges(str(pipeline.folder / FOLDER), changes, unchanged, found.left_out)


def _require_own_folder(pipeline: Pipeline, folder: Path) -> None:
    from homelab.pipelines.weather import BUILT_IN

    if pipeline.folder == BUILT_IN and not BUILT_IN.is_relative_to(folder.absolute()):
        raise InputError(
            f"Cannot export the dashboards of {pipeline.name}: its folder is part of homelab",
            f"{pipeline.folder} is replaced with each version of homelab.",
            f"Copy the pipeline with `homelab pipeline copy {pipeline.name}`, then export into the copy.",
        )


def _written(pipeline: Pipeline, assets: Sequence[DashboardAsset], records: Mapping[str, Any]) -> Sequence[FileChange]:
    present = {each.uuid: each for each in pipeline.dashboards}
    taken = {each.path for each in pipeline.dashboards}
    changes = []
    for asset in assets:
        old = present.get(asset.uuid)
        if old is None:
            path = file_name(asset, taken)
            taken.add(path)
            changes.append(FileChange(path, str(asset), "add", text=file_text(asset)))
        elif old.digest != asset.digest:
            edited = _edited_here(old, records)
            changes.append(FileChange(old.path, str(asset), "change", edited, file_text(asset)))
    return changes


def _removed(pipeline: Pipeline, assets: Sequence[DashboardAsset], records: Mapping[str, Any]) -> Sequence[FileChange]:
    """Return the removals of files whose asset was deleted in Superset; a file that was never deployed stays."""
    found = {each.uuid for each in assets}
    return [
        FileChange(each.path, str(each), "remove", _edited_here(each, records))
        for each in pipeline.dashboards
        if each.uuid in records and each.uuid not in found
    ]


def _edited_here(asset: DashboardAsset, records: Mapping[str, Any]) -> bool:
    return (records.get(asset.uuid) or {}).get("file") != asset.digest
