"""`homelab airflow lock`: lock the packages for Airflow's venv that the inventory adds, with hashes."""

from __future__ import annotations

from homelab.dev.install import compile_lock
from homelab.dev.local_stack import folder_of
from homelab.errors import InputError
from homelab.private_files import private_folder
from homelab.runtime.package_locks import PackageLock, write_lock
from homelab.runtime.session import Session
from homelab.services.airflow import airflow_of
from homelab.services.airflow_packages import LOCK_FILE, airflow_lock, user_lock


def lock(session: Session) -> PackageLock:
    """Resolve the packages at the versions of Airflow's own, and write their lock next to the inventory.

    Raises InputError if the inventory adds none, HomelabError with uv's message if they cannot be resolved.
    """
    inventory = session.inventory
    service = airflow_of(inventory)
    if not service.packages:
        raise InputError(
            "Cannot lock packages for Airflow: the inventory adds none",
            f"{inventory.path} has no `packages:` under `airflow:`.",
            "Add it, as in `packages: [humanize]`, then run `homelab airflow lock` again.",
        )
    path = inventory.path.parent / LOCK_FILE
    own, index = airflow_lock(service.lock), inventory.sources.pypi_index
    private_folder(inventory.state_dir)
    compiled = compile_lock(folder_of(inventory.state_dir), service.packages, own, index, session.progress)
    text = user_lock(service.lock, service.packages, compiled)
    return write_lock(path, text)
