"""Verbs for snapshots, backups and restores."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli import completion
from homelab.cli.confirmation import confirm_lines
from homelab.cli.global_options import Container, Containers, Json, Limit, Yes, add_verb, settings
from homelab.cli.results import echo, print_result

if TYPE_CHECKING:
    from homelab.proxmox.backups import Backup
    from homelab.proxmox.snapshots import Snapshot

_Name = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT",
        help="The snapshot's name, the same in every container.",
        autocompletion=completion.snapshots,
    ),
]
_Storage = Annotated[str | None, typer.Option(help="The storage for backups; default: the only one that holds any.")]


class BackupMode(StrEnum):
    """Proxmox's backup modes."""

    snapshot = "snapshot"
    suspend = "suspend"
    stop = "stop"


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    snapshot = typer.Typer(no_args_is_help=True, help="Snapshots of the containers on their own storage.")
    add_verb(snapshot, create)
    add_verb(snapshot, list_, "list")
    add_verb(snapshot, rollback)
    add_verb(snapshot, delete)
    app.add_typer(snapshot, name="snapshot")
    add_verb(app, backup)
    add_verb(app, restore)


def create(
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The snapshot's name, the same in every container.")],
    limit: Limit = None,
    description: Annotated[str, typer.Option(help="Its purpose; Proxmox shows it.")] = "",
    as_json: Json = False,
) -> None:
    """Take a snapshot of all containers, or of the selected ones, in parallel. Keeps an existing one.

    Example:  homelab snapshot create before_upgrade
    """
    from homelab.commands.snapshot import create as run

    outcome = run(settings.session(), name, limit=limit or (), description=description)
    print_result(outcome, as_json, lambda: echo(outcome))


def list_(limit: Limit = None, as_json: Json = False) -> None:
    """List the snapshots: time, purpose, parent, and the current one.

    Example:  homelab snapshot list
    """
    from homelab.cli.output import show_rows
    from homelab.commands.snapshot import list_snapshots

    found = list_snapshots(settings.session(), limit=limit or ())
    rows = [_snapshot_row(each) for each in found]
    print_result(found, as_json, lambda: show_rows(rows) if rows else echo("There are no snapshots."))


def _snapshot_row(each: Snapshot) -> dict[str, str]:
    from homelab.runtime.owned_containers import local_time, time_since

    return {
        "container": each.container,
        "snapshot": each.name,
        "taken": f"{local_time(each.made)} ({time_since(each.made)})",
        "parent": each.parent or "",
        "current": "yes" if each.current else "",
        "description": f"incomplete: {each.unfinished}" if each.unfinished else each.description,
    }


def rollback(name: _Name, limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Roll all containers, or the selected ones, back to a snapshot. Later changes are lost.

    Example:  homelab snapshot rollback before_upgrade
    """
    from homelab.commands.snapshot import rollback as run

    ask = confirm_lines("Later changes will be lost. Continue?", yes)
    outcome = run(settings.session(), name, limit=limit or (), confirm=ask)
    print_result(outcome, as_json, lambda: echo(outcome))


def delete(name: _Name, limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a snapshot. The containers stay as they are.

    Example:  homelab snapshot delete before_upgrade
    """
    from homelab.commands.snapshot import delete as run

    ask = confirm_lines("A rollback to it will not be possible any more. Continue?", yes)
    outcome = run(settings.session(), name, limit=limit or (), confirm=ask)
    print_result(outcome, as_json, lambda: echo(outcome))


def backup(
    names: Containers = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the existing backups.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep this number of backups of each container, remove older ones; default: the storage's own "
            "retention.",
        ),
    ] = None,
    storage: _Storage = None,
    mode: Annotated[
        BackupMode | None,
        typer.Option(
            help="snapshot: no downtime; suspend: a short pause; stop: shut down. Default: the first that the storage "
            "supports."
        ),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Back up whole containers to a Proxmox storage with vzdump.

    Example:  homelab backup --keep 7
    """
    from homelab.cli.output import show_rows
    from homelab.commands.backup import backup as run
    from homelab.commands.backup import list_backups

    session = settings.session()
    if list_them:
        found = list_backups(session, names=names or (), storage=storage)
        rows = [_backup_row(each) for each in found]
        print_result(found, as_json, lambda: show_rows(rows) if rows else echo("There are no backups."))
        return
    ask = confirm_lines("The containers are down during the backup. Continue?", yes)
    made = run(session, names=names or (), storage=storage, mode=mode.value if mode else None, keep=keep, confirm=ask)
    print_result(made, as_json, lambda: echo(made))


def _backup_row(each: Backup) -> dict[str, str]:
    from homelab.runtime.owned_containers import local_time, time_since

    return {
        "container": each.container,
        "made": f"{local_time(each.made)} ({time_since(each.made)})",
        "size": f"{each.size / 2**20:.0f} MiB",
        "volume": each.volid,
        "kept": "protected" if each.protected else "",
        "notes": "" if each.guest else each.notes,
    }


def restore(
    name: Container,
    volume: Annotated[
        str | None, typer.Argument(help="The backup, as in `homelab backup --list`; default: the newest.")
    ] = None,
    storage: _Storage = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Create a missing container from its backup, and start it. Never replaces an existing container.

    Example:  homelab restore postgres-data
    """
    from homelab.commands.restore import restore as run

    ask = confirm_lines("Restore it without the key?", yes)
    outcome = run(settings.session(), name, volume, storage=storage, confirm=ask)
    print_result(outcome, as_json, lambda: echo(outcome))
