"""`homelab dashboard export`: write the dashboards of Superset to the folder of their pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.host import check, expected_format
from homelab.model import Pipeline
from homelab.model.dashboards import FOLDER, DashboardAsset, connection_uuid
from homelab.pipelines.dashboard_files import file_name, file_text
from homelab.runtime.session import Session
from homelab.services.superset_dashboards import record, records_query, superset_access


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that the export adds, changes or removes.

    `edited_here` is True if the file differs from the deployed one.
    """

    path: str
    asset: str
    action: str
    edited_here: bool = False

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


@dataclass(frozen=True, slots=True)
class PreparedExport:
    """The changes of a pipeline's folder, and the assets in Superset by the paths of their files."""

    pipeline: str
    changes: DashboardChanges
    assets: Mapping[str, DashboardAsset]

    @property
    def overwrites(self) -> bool:
        """True if the export changes or removes an existing file."""
        return any(each.action != "add" for each in self.changes.changes)

    def write(self, session: Session) -> DashboardChanges:
        """Write and remove the files, and record the result. Raises HomelabError if the folder cannot be written."""
        try:
            for each in self.changes.changes:
                path = Path(self.changes.folder) / each.path
                if each.action == "remove":
                    path.unlink(missing_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(file_text(self.assets[each.path]), encoding="utf-8")
        except OSError as error:
            raise HomelabError(
                f"Cannot write the dashboards to {self.changes.folder}: {error.strerror}",
                str(error.filename or ""),
                "Correct the permissions of the folder, then run the same command again.",
            ) from error
        with session.connect_to("superset") as host:
            record(host, self.pipeline, list(self.assets.values()))
        return self.changes


def prepare_export(session: Session, name: str | None) -> PreparedExport:
    """Compare the dashboards in Superset with the files of a pipeline; change nothing.

    Raises InputError for a missing service, and for the built-in weather, because its folder is part of homelab.
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
    paths = {each.uuid: each.path for each in pipeline.dashboards}
    for asset in found.assets:
        paths.setdefault(asset.uuid, file_name(asset, paths.values()))
    assets = {paths[each.uuid]: each for each in found.assets}
    changes = _changes(pipeline, assets, records)
    unchanged = len(pipeline.dashboards) - sum(each.action != "add" for each in changes)
    folder = str(pipeline.folder / FOLDER)
    return PreparedExport(pipeline.name, DashboardChanges(folder, changes, unchanged, found.left_out), assets)


def _require_own_folder(pipeline: Pipeline, folder: Path) -> None:
    from homelab.pipelines.weather import BUILT_IN

    if pipeline.folder == BUILT_IN and not BUILT_IN.is_relative_to(folder.absolute()):
        raise InputError(
            f"Cannot export the dashboards of {pipeline.name}: its folder is part of homelab",
            f"{pipeline.folder} is replaced with each version of homelab.",
            f"Copy the pipeline with `homelab pipeline copy {pipeline.name}`, then export into the copy.",
        )


def _changes(
    pipeline: Pipeline, assets: Mapping[str, DashboardAsset], records: Mapping[str, Any]
) -> Sequence[FileChange]:
    """Return the changes of the files; a file without its asset in Superset stays if it was never deployed."""
    present = {each.path: each for each in pipeline.dashboards}
    changes = []
    for path, asset in assets.items():
        old = present.get(path)
        if old is None:
            changes.append(FileChange(path, str(asset), "add"))
        elif old.digest != asset.digest:
            changes.append(FileChange(path, str(asset), "change", _edited_here(old, records)))
    for path, asset in present.items():
        if path not in assets and asset.uuid in records:
            changes.append(FileChange(path, str(asset), "remove", _edited_here(asset, records)))
    return changes


def _edited_here(asset: DashboardAsset, records: Mapping[str, Any]) -> bool:
    return (records.get(asset.uuid) or {}).get("file") != asset.digest
