"""`homelab pipeline lock`: lock the Python packages of a pipeline's scripts, with hashes."""

from __future__ import annotations

from homelab.dev.install import compile_lock
from homelab.dev.local_stack import folder_of
from homelab.errors import InputError
from homelab.model.pipelines import lock_header
from homelab.paths import bundled_path
from homelab.private_files import private_folder
from homelab.runtime.package_locks import PackageLock, write_lock
from homelab.runtime.session import Session


def lock(session: Session, name: str) -> PackageLock:
    """Resolve the packages at the versions that builds use, and write their lock into the pipeline's folder.

    Raises InputError if the pipeline has no requirements.in, HomelabError with uv's message if they cannot be resolved.
    """
    inventory = session.inventory
    pipeline = inventory.pipeline(name)
    if not pipeline.requirements_in.is_file():
        raise InputError(
            f"Cannot lock the packages of the pipeline {name}: requirements.in is missing",
            f"{pipeline.requirements_in} does not exist.",
            f"Write one package a line into it, then run `homelab pipeline lock {name}` again.",
        )
    wanted = pipeline.requirements_in.read_bytes()
    builds, index = bundled_path("pipelines/shared/requirements/analytics.txt"), inventory.sources.pypi_index
    private_folder(inventory.state_dir)
    folder = folder_of(inventory.state_dir)
    text = lock_header(wanted) + compile_lock(folder, wanted.decode().splitlines(), builds, index, session.progress)
    return write_lock(pipeline.requirements_lock, text)
