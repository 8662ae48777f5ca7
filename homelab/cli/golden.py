"""Verbs for golden containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.confirmation import confirm_lines
from homelab.cli.global_options import Container, Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    golden = typer.Typer(no_args_is_help=True, help="Golden containers: templates of deployed ones, which `up` clones.")
    add_verb(golden, create)
    add_verb(golden, list_, "list")
    add_verb(golden, delete)
    app.add_typer(golden, name="golden")


def create(
    name: Container,
    vmid: Annotated[
        int | None, typer.Option(min=100, help="The golden container's vmid; default: the next free one.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="The storage for its disks; default: the container's own.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a golden container of a deployed one: `up` clones it for containers with `clone_from: NAME`.

    The container is shut down, copied and started again. The copy contains everything: passwords, keys and data.

    Example:  homelab golden create analytics-platform
    """
    from homelab.commands.golden import create as run

    ask = confirm_lines(f"{name} is down during the copy. Continue?", yes)
    outcome = run(settings.session(), name, vmid=vmid, storage=storage, confirm=ask)
    print_result(outcome, as_json, lambda: echo(outcome))


def list_(as_json: Json = False) -> None:
    """List the golden containers.

    Example:  homelab golden list
    """
    from homelab.cli.output import show_rows
    from homelab.commands.golden import list_golden

    found = list_golden(settings.session())
    rows = [
        {
            "container": g.of,
            "vmid": g.vmid,
            "node": g.node,
            "made": g.made,
            "disk": f"{g.disk} GiB",
            "complete": "yes" if g.whole else "no",
        }
        for g in found
    ]
    print_result(found, as_json, lambda: show_rows(rows) if rows else echo("There are no golden containers."))


def delete(name: Container, yes: Yes = False, as_json: Json = False) -> None:
    """Remove the golden containers of a container, which stays as it is.

    Example:  homelab golden delete analytics-platform
    """
    from homelab.commands.golden import delete as run

    outcome = run(settings.session(), name, confirm=confirm_lines("They cannot be restored. Continue?", yes))
    print_result(outcome, as_json, lambda: echo(outcome))
