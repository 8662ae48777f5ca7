"""Verbs for the lab on this machine, and the demo."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli import completion
from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    add_verb(app, demo)
    lab = typer.Typer(no_args_is_help=True, help="A Proxmox-compatible node on this machine, to try everything on.")
    add_verb(lab, lab_up, "up")
    add_verb(lab, lab_down, "down")
    add_verb(lab, lab_status, "status")
    app.add_typer(lab, name="lab")


def demo(
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="GROUP,…",
            help="Groups of further services: gateway, superset, monitoring, alerts.",
            autocompletion=completion.demo_groups,
        ),
    ] = None,
) -> None:
    """Set up everything on this machine: lab, containers, deploy, a month of weather, one run of the pipeline.

    Ends with the state of the lab and a picture of the temperatures. The groups stay until `homelab lab down`, or the
    next --with.

    Example:  homelab demo --with gateway,monitoring
    """
    from homelab.cli.output import show_rows
    from homelab.cli.report_output import show_status, show_temperatures
    from homelab.commands.demo import demo as run

    groups = [name.strip() for names in with_ or () for name in names.split(",")]
    done = run(settings.inventory, settings.progress(), groups)
    show_status(done.report)
    show_rows(done.days)
    show_temperatures(done.temperatures)
    echo(f"\nAirflow: {done.ui}, user admin, password from `.venv/bin/homelab --lab secret show`")
    if done.messages:
        echo(f"Messages about incidents: {done.messages}")
    echo("Look around: `.venv/bin/homelab --lab --help`. Remove it: `.venv/bin/homelab lab down`")
    if done.start_page:
        echo(
            f"Start page: {done.start_page}, user homelab, password from "
            "`.venv/bin/homelab --lab secret show gateway-password`"
        )
    if not done.report.healthy:
        raise typer.Exit(1)


def lab_up() -> None:
    """Start the lab: bridge, template, node, replay server. Quick if it is already running.

    Example:  homelab lab up
    """
    from homelab.lab import Lab
    from homelab.lab import up as run

    echo(f"The lab is running; its overlay is {run(Lab(), settings.progress())}")


def lab_down(
    yes: Yes = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove the cached templates and the guard route.")
    ] = False,
) -> None:
    """Stop the lab, and remove its containers and its other changes to this machine, except the guard route.

    The route keeps packets for a lab on this machine.

    Example:  homelab lab down --yes
    """
    from homelab.lab import Lab
    from homelab.lab import down as run

    if not confirm("The lab's containers and all their data will be lost. Continue?", yes):
        raise typer.Abort
    run(Lab(), settings.progress(), purge=purge)


def lab_status(as_json: Json = False) -> None:
    """Show the lab's parts. The exit code is 0 only if it is running.

    Example:  homelab lab status
    """
    from homelab.cli.report_output import show_lab
    from homelab.lab import Lab
    from homelab.lab import status as run

    report = run(Lab())
    print_result(report, as_json, lambda: show_lab(report))
    if not report.running:
        raise typer.Exit(1)
