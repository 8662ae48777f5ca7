"""Verbs that approve an SSH host key or local code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homelab.cli import standard_input
from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Container, Yes, add_verb, settings
from homelab.cli.results import echo


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    trust = typer.Typer(no_args_is_help=True, help="Approve an SSH host key that changed on purpose, or local code.")
    add_verb(trust, host)
    add_verb(trust, code)
    app.add_typer(trust, name="trust")


def host(
    name: Container,
    fingerprint: Annotated[
        str | None,
        typer.Argument(help="SHA256:…, from `ssh-keygen -lf` in the container; default: from Proxmox's log."),
    ] = None,
) -> None:
    """Pin a container's new SSH host key, after its keys were regenerated on purpose.

    If Proxmox's log of its creation no longer exists, prints the command that shows the key on the node, and asks for
    its output.

    Example:  homelab trust host postgres-data
    """
    from homelab.commands.trust_host import trust_host as run

    ask = (lambda question: str(typer.prompt(question, err=True))) if standard_input.is_terminal() else None
    pin = run(settings.session(), name, fingerprint, ask=ask)
    echo(f"{name}: {pin.fingerprint} is trusted from now on")


def code(
    path: Annotated[Path, typer.Argument(help="A Python file next to the inventory, such as services/NAME.py.")],
    yes: Yes = False,
) -> None:
    """Approve the present content of a Python file; homelab runs it on this machine, with your privileges.

    The approval ends with the next change of the file. It is in your state folder, not next to the inventory.

    Example:  homelab trust code services/prices.py
    """
    from homelab.commands.trust_code import read, trust_code

    content = read(path)
    echo(f"{path}: {len(content.splitlines())} lines")
    if not confirm("homelab will run this file on this machine. Have you read it, and do you approve it?", yes):
        raise typer.Exit(1)
    echo(f"{path}: SHA-256 {trust_code(path, content)} is approved from now on")
