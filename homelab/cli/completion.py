"""Shell completion of names, such as containers, pipelines and secrets. Any error completes to nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from homelab.model import Inventory


def _inventory(context: typer.Context) -> Inventory:
    from homelab.inventory import load

    root, own = context.find_root().params, context.params
    default = os.environ.get("HOMELAB_INVENTORY") or "inventory.yaml"
    paths = [own.get("inventory") or root.get("inventory") or default]
    if own.get("lab") or root.get("lab"):
        from homelab.lab import Lab

        paths += Lab().overlays
    return load([Path(path) for path in (*paths, *(root.get("overlay") or ()), *(own.get("overlay") or ()))])


def _completer(
    candidates: Callable[[typer.Context, Inventory], Iterable[str]],
) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return [name for name in candidates(ctx, _inventory(ctx)) if name.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - a message would garble the shell's line
            return []

    return complete


def _log_targets(context: typer.Context, inventory: Inventory) -> Iterable[str]:
    from homelab.runtime.log_sources import units_of

    given = context.params.get("targets") or ()
    named = [container for container in inventory.containers if container.name in given]
    if not given:
        yield from (container.name for container in inventory.containers)
        yield from (pipeline.name for pipeline in inventory.pipelines)
    for container in named or inventory.containers:
        yield from container.services
        yield from (unit.removesuffix(".service") for unit in units_of(inventory, container))


def _secrets(_: typer.Context, inventory: Inventory) -> Iterable[str]:
    from homelab.secrets import FileSecretStore

    return FileSecretStore(inventory.state_dir).names()


def _web_uis(_: typer.Context, inventory: Inventory) -> Iterable[str]:
    from homelab.model.web_uis import web_uis

    return (ui.service for ui in web_uis(inventory.containers))


def _snapshots(_: typer.Context, inventory: Inventory) -> Iterable[str]:
    from homelab.commands.snapshot import list_snapshots
    from homelab.progress import SilentProgress
    from homelab.runtime.session import Session

    return sorted({each.name for each in list_snapshots(Session.open(inventory, SilentProgress()))})


def demo_groups(incomplete: str) -> list[str]:
    """Return the groups of the demo that complete the last name of a list with commas."""
    from homelab.lab import GROUPS

    *given, last = incomplete.split(",")
    left = (name for name in GROUPS if name.startswith(last) and name not in given)
    return [",".join([*given, name]) for name in left]


containers = _completer(lambda _, inventory: (container.name for container in inventory.containers))
log_targets = _completer(_log_targets)
pipelines = _completer(lambda _, inventory: (pipeline.name for pipeline in inventory.pipelines))
secrets = _completer(_secrets)
snapshots = _completer(_snapshots)
web_uis = _completer(_web_uis)
