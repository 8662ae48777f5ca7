"""Verbs about the lab on this machine, and the demo."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.common import Json, Yes, confirm, emit, settings


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    app.command()(demo)
    lab = typer.Typer(no_args_is_help=True, help="A Proxmox-compatible node on this machine, to try everything on.")
    for name, verb in (("up", lab_up), ("down", lab_down), ("status", lab_status)):
        lab.command(name)(verb)
    app.add_typer(lab, name="lab")


def demo() -> None:
    """The whole way on this machine: lab, containers, deploy, one run of the pipeline, status, and its weather."""
    from homelab.cli.output import show_rows, show_status
    from homelab.commands.demo import demo as run

    report, rows, ui = run(settings.inventory, settings.progress())
    show_status(report)
    show_rows(rows)
    typer.echo(
        f"\nAirflow: {ui}, user admin, password from `.venv/bin/homelab --lab secret`\n"
        "Look around: `.venv/bin/homelab --lab --help`. Remove it all: `.venv/bin/homelab lab down`"
    )
    if not report.healthy:
        raise typer.Exit(1)


def lab_up() -> None:
    """Start the lab: bridge, template, node, replay server. Quick when it is up already."""
    from homelab.lab import Lab
    from homelab.lab import up as run

    typer.echo(f"The lab is up; its overlay is {run(Lab(), settings.progress())}")


def lab_down(
    yes: Yes = False, purge: Annotated[bool, typer.Option("--purge", help="Remove the cached template, too.")] = False
) -> None:
    """Stop the lab, and remove its containers and all that it put on this machine."""
    from homelab.lab import Lab
    from homelab.lab import down as run

    if not confirm("lab down", "The lab's containers and all their data will be gone. Go on?", yes):
        raise typer.Abort
    run(Lab(), settings.progress(), purge=purge)


def lab_status(as_json: Json = False) -> None:
    """Show what of the lab is up. Exit code 0 only if it is."""
    from homelab.cli.output import show_lab
    from homelab.lab import Lab
    from homelab.lab import status as run

    report = run(Lab())
    emit(report, as_json, lambda: show_lab(report))
    if not report.running:
        raise typer.Exit(1)
