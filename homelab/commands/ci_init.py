"""`homelab ci init`: a workflow in the user's repository that checks pull requests and deploys merges."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from homelab import __version__
from homelab.errors import InputError
from homelab.local_files import write_new
from homelab.model import Inventory
from homelab.pipelines.installed import of_user
from homelab.render import render

_FILES = {
    "github": (".github/workflows/homelab.yml", "ci/actions.yml.j2"),
    "gitea": (".gitea/workflows/homelab.yml", "ci/actions.yml.j2"),
    "gitlab": (".gitlab-ci.yml", "ci/gitlab.yml.j2"),
}
_PACKAGE = "homelab-data-stack"
_SAFE = re.compile(r"[\w.,:/@+=~\[\]-]+( @ )?[\w.,:/@+=~\[\]-]*")


@dataclass(frozen=True, slots=True)
class Workflow:
    """The options of a workflow; `folder` is the clone on the user's runner that is deployed."""

    forge: str
    branch: str
    folder: Path
    published: bool = False
    requirement: str | None = None


def write_workflow(inventory: Inventory, workflow: Workflow) -> Path:
    """Write the workflow into the repository of the inventory; return its path.

    Raises InputError without a repository, for a value that a shell would interpret, or if the file exists.
    """
    requirement = workflow.requirement or f"{_PACKAGE}[lab]=={__version__}"
    for name, value in (("--requirement", requirement), ("--branch", workflow.branch), ("--folder", workflow.folder)):
        if not _SAFE.fullmatch(str(value)):
            raise InputError(f"Cannot write a workflow: {name} has unsupported characters", f"It is {value}.", "")
    root = _repository(inventory.path.parent)
    name, template = _FILES[workflow.forge]
    path = root / name
    if os.path.lexists(path):
        raise InputError(
            f"Cannot write {path}: it already exists",
            "homelab does not overwrite a workflow.",
            "Move it away, run the same command again, and merge the two.",
        )
    text = render(
        template,
        forge=workflow.forge,
        branch=workflow.branch,
        folder=workflow.folder,
        published=workflow.published,
        requirement=requirement,
        inventory=inventory.path.relative_to(root),
        pipelines=[each.name for each in of_user(inventory.pipelines) if each.has_dbt],
    )
    write_new({path: text.rstrip() + b"\n"}, f"write {path}")
    return path


def _repository(folder: Path) -> Path:
    """Return the folder of the git repository. Raises InputError if there is none."""
    found = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    if found is None:
        raise InputError(
            "Cannot write a workflow: the inventory is in no git repository",
            f"{folder} and the folders above it have no .git.",
            "Create one: `git init`. Keep the folder .homelab out of it, as it has the secrets.",
        )
    return found
