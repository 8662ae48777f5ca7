"""`homelab airflow lock`: lock the packages for Airflow's venv that the inventory adds, with hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from homelab.dev.install import compile_lock
from homelab.dev.local_stack import folder_of
from homelab.errors import InputError
from homelab.private_files import private_folder
from homelab.runtime.session import Session
from homelab.services.airflow import Airflow
from homelab.services.airflow_packages import LOCK_FILE, airflow_lock, user_lock


@dataclass(frozen=True)
class LockedPackages:
    """The lock file, and the number of packages in it."""

    path: Path
    packages: int

    def __str__(self) -> str:
        return f"{self.path.name}: {self.packages} packages are locked; `homelab deploy` installs them"


def lock(session: Session) -> LockedPackages:
    """Resolve the packages at the versions that Airflow has, and write their lock next to the inventory.

    Raises InputError if the inventory adds none, HomelabError with uv's message if they cannot be resolved.
    """
    inventory = session.inventory
    service = inventory.container_with("airflow").services["airflow"]
    packages = service.packages if isinstance(service, Airflow) else ()
    if not isinstance(service, Airflow) or not packages:
        raise InputError(
            "Cannot lock packages for Airflow: the inventory adds none",
            f"{inventory.path} has no `packages:` under `airflow:`.",
            "Add it, as in `packages: [humanize]`, then run `homelab airflow lock` again.",
        )
    path = inventory.path.parent / LOCK_FILE
    own, index = airflow_lock(service.version), inventory.sources.pypi_index
    private_folder(inventory.state_dir)
    compiled = compile_lock(folder_of(inventory.state_dir), packages, own, index, session.progress)
    text = user_lock(service.version, packages, compiled)
    new = path.with_name(f"{path.name}.new")  # a deploy must never see a part of the lock
    new.write_text(text)
    new.replace(path)
    return LockedPackages(path, text.count("=="))
