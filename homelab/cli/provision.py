"""Verbs for the containers themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import DetailedExitcode, Json, Limit, Yes, add_verb, settings
from homelab.cli.results import echo, print_result

if TYPE_CHECKING:
    from homelab.plan import Plan


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (init, doctor, plan, up, destroy):
        add_verb(app, verb)


def init(
    host: Annotated[str | None, typer.Option(help="The Proxmox node's name or address.")] = None,
    port: Annotated[int, typer.Option(help="Its API port.")] = 8006,
) -> None:
    """Write a commented inventory.yaml, pin the node's certificate, and print the commands for the token.

    Example:  homelab init --host pve.lan
    """
    from homelab.commands.init import init as run

    run(
        settings.inventory,
        host=host or typer.prompt("Proxmox node (name or address)"),
        port=port,
        confirm=typer.confirm,
        ask=lambda text: typer.prompt(text, hide_input=True, default="", show_default=False),
        output=echo,
    )


def doctor(as_json: Json = False) -> None:
    """Check the prerequisites: token, privileges, storage, bridge, template, clock, OpenWeather's key.

    In running containers, also check for pending security updates and due restarts. Changes nothing. Each failed check
    names its remedy. The exit code is 0 only if all checks pass.

    Example:  homelab doctor
    """
    from homelab.cli.report_output import show_checks
    from homelab.commands.doctor import doctor as run

    session = settings.session()
    diagnosis = run(session.inventory, session=session)
    print_result(diagnosis, as_json, lambda: show_checks(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


def plan(limit: Limit = None, detailed_exitcode: DetailedExitcode = False, as_json: Json = False) -> None:
    """Preview the changes of `up` and, in running containers, of `deploy`. Changes nothing.

    Each line ends with its effect: live, pending until restart, or the restarted service or container. The exit code is
    1 if a change is refused.

    Example:  homelab plan --detailed-exitcode
    """
    from homelab.cli.plan_output import show_preview
    from homelab.commands.plan import preview as run

    preview = run(settings.session(), limit=limit or ())
    print_result(preview, as_json, lambda: show_preview(preview))
    if preview.refused or (detailed_exitcode and preview.not_inspected and not preview):
        raise typer.Exit(1)
    if detailed_exitcode and preview:
        settings.changes_found = True
        raise typer.Exit(2)


def up(limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Create, update and start the containers of the inventory.

    Shows the plan first, and asks only if a running container would be restarted.

    Example:  homelab up --limit postgres-data
    """
    from homelab.commands.up import up as run

    ask = _confirm_plan("Running containers will be restarted. Continue?", yes)
    outcome = run(settings.session(), confirm=ask, limit=limit or ())
    print_result(outcome, as_json, lambda: echo(outcome))


def destroy(
    limit: Limit = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Remove the lab's containers that are missing in the inventory instead.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove the inventory's containers with all their data. Touches nothing without this lab's tags.

    Example:  homelab destroy --limit airflow-orchestration

    Example:  homelab destroy --orphans
    """
    from homelab.commands.destroy import destroy as run

    ask = _confirm_plan("These containers and all their data will be lost. Continue?", yes)
    outcome = run(settings.session(), confirm=ask, limit=limit or (), orphans=orphans)
    print_result(outcome, as_json, lambda: echo(outcome))


def _confirm_plan(question: str, yes: bool) -> Callable[[Plan], bool]:
    """Return a function that shows a plan, and asks if it is disruptive."""
    from homelab.cli.plan_output import show_plan

    def ask(plan: Plan) -> bool:
        show_plan(plan)
        return not plan.harms or confirm(question, yes)

    return ask
