"""`homelab pipeline lock`: lock the Python packages of a pipeline's scripts, with hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from homelab.dev.install import compile_lock
from homelab.dev.local_stack import folder_of
from homelab.errors import InputError
from homelab.model.pipelines import lock_header
from homelab.paths import bundled_path
from homelab.private_files import private_folder
from homelab.runtime.session import Session


@dataclass(frozen=True)
class LockedRequirements:
    """The lock file, and the number of packages in it."""

    path: Path
    packages: int

    def __str__(self) -> str:
        return f"{self.path}: {self.packages} packages are locked; `homelab deploy` installs them"


def lock(session: Session, name: str) -> LockedRequirements:
    """Resolve the packages at the versions that builds use, and write their lock into the pipeline's folder.

    Raises InputError if the pipeline has no requirements.in, HomelabError with uv's message if they cannot be resolved.
    """
    inventory = session.inventory
    pipeline = inventory.pipeline(name)
    if not pipeline.requirements_in.is_file():
        raise InputError(
            f"Cannot lock the packages of the pipeline {name}: it names none",
            f"{pipeline.requirements_in} does not exist.",
            f"Write one package a line there, then run `homelab pipeline lock {name}` again.",
        )
    wanted = pipeline.requirements_in.read_bytes()
    builds, index = bundled_path("pipeline") / "requirements" / "analytics.txt", inventory.sources.pypi_index
    private_folder(inventory.state_dir)
    folder = folder_of(inventory.state_dir)
    text = lock_header(wanted) + compile_lock(folder, wanted.decode().splitlines(), builds, index, session.progress)
    path = pipeline.requirements_lock
    new = path.with_name(f"{path.name}.new")  # a deploy must never see a part of the lock
    new.write_text(text)
    new.replace(path)
    return LockedRequirements(path, text.count("=="))
