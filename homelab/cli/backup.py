"""Verbs that keep the containers' state, and bring it back."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Json, Limit, Yes, confirm_lines, emit, open_state, settings

if TYPE_CHECKING:
    from homelab.proxmox.backups import Backup
    from homelab.proxmox.snapshots import Snapshot

Name = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The snapshot's name, the same in every container.")]
Storage = Annotated[str | None, typer.Option(help="The storage for backups; the only one that holds any if left out.")]


class HowToBackUp(StrEnum):
    """Proxmox's modes of a backup."""

    snapshot = "snapshot"
    suspend = "suspend"
    stop = "stop"


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    snapshot = typer.Typer(no_args_is_help=True, help="The containers' state, kept on their own storage.")
    for name, verb in (("create", create), ("list", listed), ("rollback", rollback), ("delete", delete)):
        snapshot.command(name)(verb)
    app.add_typer(snapshot, name="snapshot")
    app.command()(backup)
    app.command()(restore)


def create(
    name: Name,
    limit: Limit = None,
    description: Annotated[str, typer.Option(help="What it is for: Proxmox shows it.")] = "",
    as_json: Json = False,
) -> None:
    """Take a snapshot of all containers at once, or of those that are named. One that is there already stays.

    Example:  homelab snapshot create before_upgrade
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.snapshot import create as run

    outcome = run(settings.load(), name, progress=settings.progress(), limit=limit or (), description=description)
    emit(outcome, as_json, lambda: show_outcome(outcome))


def listed(limit: Limit = None, as_json: Json = False) -> None:
    """Show the snapshots: when each was taken, what for, which one it follows, and which one is the present's.

    Example:  homelab snapshot list
    """
    from homelab.cli.output import show_rows
    from homelab.commands.snapshot import listed as run

    found = run(settings.load(), progress=settings.progress(), limit=limit or ())
    emit(
        found,
        as_json,
        lambda: show_rows([_snapshot(each) for each in found]) if found else typer.echo("There are no snapshots."),
    )


def _snapshot(each: Snapshot) -> dict[str, str]:
    from homelab.runtime.owned_containers import local_time, time_since

    return {
        "container": each.container,
        "snapshot": each.name,
        "taken": f"{local_time(each.made)} ({time_since(each.made)})",
        "follows": each.parent or "",
        "now": "here" if each.current else "",
        "description": f"not whole: {each.unfinished}" if each.unfinished else each.description,
    }


def rollback(name: Name, limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Go back to a snapshot, with all containers or with those that are named. What came after it is lost.

    Example:  homelab snapshot rollback before_upgrade
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.snapshot import rollback as run

    inventory = settings.load()
    outcome = run(
        inventory,
        name,
        known_hosts=open_state(inventory)[1],
        progress=settings.progress(),
        limit=limit or (),
        confirm=confirm_lines(f"snapshot rollback {name}", "What came after it will be lost. Go on?", yes),
    )
    emit(outcome, as_json, lambda: show_outcome(outcome))


def delete(name: Name, limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove a snapshot. The containers stay as they are.

    Example:  homelab snapshot delete before_upgrade
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.snapshot import delete as run

    outcome = run(
        settings.load(),
        name,
        progress=settings.progress(),
        limit=limit or (),
        confirm=confirm_lines(f"snapshot delete {name}", "There will be no way back to it. Go on?", yes),
    )
    emit(outcome, as_json, lambda: show_outcome(outcome))


def backup(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The containers; all if none.")] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Show the backups that there are.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep so many of each container, and remove older ones; the storage's own retention if left out.",
        ),
    ] = None,
    storage: Storage = None,
    mode: Annotated[
        HowToBackUp | None,
        typer.Option(
            help="snapshot: it goes on all the while; suspend: it stands "
            "still for a moment; stop: it is shut down. The first that its storage can if left out."
        ),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Back up whole containers to a storage of Proxmox's, with vzdump.

    Example:  homelab backup --keep 7
    """
    from homelab.cli.output import show_outcome, show_rows
    from homelab.commands.backup import backup as run
    from homelab.commands.backup import listed as look

    inventory = settings.load()
    if list_them:
        found = look(inventory, names=names or (), storage=storage)
        emit(
            found,
            as_json,
            lambda: show_rows([_backup(each) for each in found]) if found else typer.echo("There are no backups."),
        )
        return
    made = run(
        inventory,
        names=names or (),
        storage=storage,
        mode=mode.value if mode else None,
        keep=keep,
        known_hosts=open_state(inventory)[1],
        progress=settings.progress(),
        confirm=confirm_lines("backup … --mode stop", "They will be down meanwhile. Go on?", yes),
    )
    emit(made, as_json, lambda: show_outcome(made))


def _backup(each: Backup) -> dict[str, str]:
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
    name: Annotated[str, typer.Argument(help="The container; it must not be there any more.")],
    volume: Annotated[
        str | None, typer.Argument(help="The backup, as `backup --list` shows it; the newest if left out.")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Make a container anew from a backup, and start it. Never over one that is there.

    Example:  homelab restore postgres-data
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.restore import restore as run

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    outcome = run(
        inventory,
        name,
        volume,
        secret_store=secret_store,
        known_hosts=known_hosts,
        progress=settings.progress(),
        storage=storage,
    )
    emit(outcome, as_json, lambda: show_outcome(outcome))
