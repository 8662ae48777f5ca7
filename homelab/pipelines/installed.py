"""Pipelines of installed packages, which register a folder's path in the entry point group `homelab.pipelines`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from homelab.model import Pipeline
from homelab.pipelines.weather import BUILT_IN

GROUP = "homelab.pipelines"


def installed_folder(name: str) -> Path | None:
    """Return the folder of a pipeline of a package; None if no package has one of this name.

    Raises ValueError for one that several packages provide, and one that cannot be imported or is no folder.
    """
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"several packages provide it: {', '.join(map(_origin, found))}; write the `path` of one")
    try:
        folder = found[0].load()
    except (Exception, SystemExit) as error:  # code of others may raise anything
        raise ValueError(f"{_origin(found[0])} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise ValueError(f"{_origin(found[0])} must give the path of a folder, not {folder!r}")
    return Path(folder)


def of_user(pipelines: Iterable[Pipeline]) -> Sequence[Pipeline]:
    """Return the pipelines in folders of the user: neither built in nor of an installed package."""
    return [each for each in pipelines if each.folder not in (BUILT_IN, _installed(each.name))]


def _installed(name: str) -> Path | None:
    with suppress(ValueError):
        return installed_folder(name)
    return None


def _origin(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
