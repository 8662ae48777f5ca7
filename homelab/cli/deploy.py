"""Verbs about what runs in the containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Json, Limit, emit, open_state, print_error, settings
from homelab.errors import InputError

if TYPE_CHECKING:
    from homelab.model import Inventory

_REFUSED = 255  # ssh's own exit status for "no connection"


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (deploy, status, ssh, logs, secret):
        app.command()(verb)


def deploy(
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change, with diffs.")] = False,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="The same, and exit code 2 if there is anything.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback-on-failure",
            help="Take a snapshot of each container before it "
            "is changed, and go back to it if its deploy fails. What came in meanwhile is lost then, such "
            "as rows in PostgreSQL.",
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every command and what it printed.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="The result as JSON on standard output, and what happens as "
            "it happens on standard error, an event a line.",
        ),
    ] = False,
) -> None:
    """Bring what is inside the containers to the desired state. A second run changes nothing.

    Example:  homelab deploy --dry-run
    """
    from homelab.cli.output import show_deploy
    from homelab.commands.deploy import deploy as run

    if rollback and (dry_run or check_only):
        raise InputError(
            "--rollback-on-failure is for a deploy that changes something",
            f"`{'--dry-run' if dry_run else '--check-only'}` changes nothing.",
            "Leave one of them out.",
        )
    settings.verbose |= verbose
    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    reports = run(
        inventory,
        secret_store=secret_store,
        known_hosts=known_hosts,
        progress=settings.progress(events=as_json),
        limit=limit or (),
        dry_run=dry_run or check_only,
        rollback=rollback,
    )
    emit(reports, as_json, lambda: show_deploy(reports, dry_run or check_only))
    failures = [report.failure for report in reports if report.failure]
    for failure in () if as_json else failures:
        print_error(failure)
    if failures:
        raise typer.Exit(1)
    if check_only and any(report.changes for report in reports):
        raise typer.Exit(2)


def status(as_json: Json = False) -> None:
    """Show what runs: containers, services, data, the last runs. Exit code 0 only if all is healthy."""
    from homelab.cli.output import show_status
    from homelab.commands.status import status as run

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    report = run(inventory, secret_store=secret_store, known_hosts=known_hosts)
    emit(report, as_json, lambda: show_status(report))
    if not report.healthy:
        raise typer.Exit(1)


def ssh(
    name: Annotated[str, typer.Argument(help="The container.")],
    command: Annotated[list[str] | None, typer.Argument(help="What to run there; a shell if left out.")] = None,
) -> None:
    """Open a shell in a container, or run a command there.

    Example:  homelab ssh postgres-data -- systemctl --failed
    """
    from homelab.runtime.ssh_client import ssh_argv

    inventory = settings.load()
    _hand_over(ssh_argv(inventory, name, command or (), *open_state(inventory)), inventory, name)


def logs(
    name: Annotated[str, typer.Argument(help="The container.")],
    unit: Annotated[str | None, typer.Argument(help="A unit; all of the container's services if left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come in.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines to begin with.")] = 100,
) -> None:
    """Show the journal of a container's services.

    Example:  homelab logs airflow-orchestration airflow-scheduler -f
    """
    from homelab.runtime.ssh_client import logs_argv

    inventory = settings.load()
    _hand_over(logs_argv(inventory, name, unit, follow, lines, *open_state(inventory)), inventory, name)


def _hand_over(argv: list[str], inventory: Inventory, name: str) -> None:
    """Give the terminal to ssh, and end as it ends. Raises HomelabError when it is not installed.

    Where it would not connect because of another host key, the way out is said after its own words.
    """
    from homelab.runtime.interactive import run_interactive
    from homelab.runtime.ssh_client import host_key_change

    status, interrupted = run_interactive(argv)
    if status == _REFUSED and (reason := host_key_change(inventory, name, open_state(inventory)[1])):
        print_error(reason)
    raise typer.Exit(130 if interrupted else status)


def secret(name: Annotated[str, typer.Argument(help="Its name, as `airflow-admin`.")] = "airflow-admin") -> None:
    """Print one secret: the password of Airflow's user `admin`, if no other is named.

    Example:  homelab secret | wl-copy
    """
    inventory = settings.load()
    secret_store, _ = open_state(inventory)
    if name not in secret_store.names():
        raise InputError(
            f"There is no secret {name}",
            f"There are: {', '.join(secret_store.names()) or 'none yet'}.",
            "They are made by the first `homelab deploy`.",
        )
    typer.echo(secret_store.secret(name).reveal())
