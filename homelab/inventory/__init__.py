"""inventory.yaml and its overlays become an Inventory, or one error that lists every problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.inventory import yaml_source
from homelab.inventory.errors import Place, Problems
from homelab.inventory.root_section import read
from homelab.inventory.section import Section
from homelab.model import Inventory
from homelab.services.registry import Registry


def load(paths: Sequence[Path], proposed: str | None = None, registry: Registry | None = None) -> Inventory:
    """Read the inventory and the overlays over it. Raises InputError with all problems.

    `proposed` replaces the text of the inventory's file; `registry` holds the services, by default those of its folder.
    """
    problems = Problems()
    path, *overlays = (path.absolute() for path in paths)
    document = (
        _read(path, problems, "Write a commented inventory with `homelab init`.")
        if proposed is None
        else _parse(path, proposed, problems)
    )
    above = [_read(overlay, problems, "It was given as an overlay of the inventory.") for overlay in overlays]
    if document.broken or any(overlay.broken for overlay in above):
        problems.raise_all(path)
    for overlay in above:
        yaml_source.merge(document, overlay)
    return read(path, Section(document, problems, registry or Registry(path.parent), (), document.data))


def _read(path: Path, problems: Problems, hint: str) -> yaml_source.Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read {path.name}: {error.strerror}", f"{path}.", hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read {path.name}: not UTF-8 text", f"{path}: {error}.", hint) from error
    return _parse(path, text, problems)


def _parse(path: Path, text: str, problems: Problems) -> yaml_source.Document:
    document = yaml_source.parse(path, text, problems)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        # Not quoted: the named file may be one with a secret.
        kind = "list" if isinstance(document.data, list) else "single value"
        problems.add(Place(path, 1), (), f"must be a mapping, not a {kind}")
        document.broken = True
    return document
