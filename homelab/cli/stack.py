"""Verbs about what runs in the containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Json, Limit, complain, emit, settings, trust_of
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
    check_only: Annotated[bool, typer.Option("--check-only", help="The same, and exit code 2 if there is anything."),
                          ] = False,
    rollback: Annotated[bool, typer.Option("--rollback-on-failure", help="Take a snapshot of each container before it "
                        "is changed, and go back to it if its deploy fails. What came in meanwhile is lost then, such "
                        "as rows in PostgreSQL.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every command and what it printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output, and what happens as "
                                                         "it happens on standard error, an event a line.")] = False,
) -> None:
    """Bring what is inside the containers to the desired state. A second run changes nothing.

    Example:  homelab deploy --dry-run
    """
    from homelab.commands.deploy import deploy as run
    from homelab.view import show_deploy

    if rollback and (dry_run or check_only):
        raise InputError("--rollback-on-failure is for a deploy that changes something",
                         f"`{'--dry-run' if dry_run else '--check-only'}` changes nothing.", "Leave one of them out.")
    settings.verbose |= verbose
    inventory = settings.load()
    vault, known_hosts = trust_of(inventory)
    reports = run(inventory, vault=vault, known_hosts=known_hosts, progress=settings.progress(events=as_json),
                  limit=limit or (), dry_run=dry_run or check_only, rollback=rollback)
    emit(reports, as_json, lambda: show_deploy(reports, dry_run or check_only))
    failures = [report.failure for report in reports if report.failure]
    for failure in () if as_json else failures:
        complain(failure)
    if failures:
        raise typer.Exit(1)
    if check_only and any(report.changes for report in reports):
        raise typer.Exit(2)


def status(as_json: Json = False) -> None:
    """Show what runs: containers, services, data, the last runs. Exit code 0 only if all is healthy."""
    from homelab.commands.status import status as run
    from homelab.view import show_status

    inventory = settings.load()
    vault, known_hosts = trust_of(inventory)
    report = run(inventory, vault=vault, known_hosts=known_hosts)
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
    from homelab.commands.access import ssh_argv

    inventory = settings.load()
    _hand_over(ssh_argv(inventory, name, command or (), *trust_of(inventory)), inventory, name)


def logs(
    name: Annotated[str, typer.Argument(help="The container.")],
    unit: Annotated[str | None, typer.Argument(help="A unit; all of the container's services if left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come in.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines to begin with.")] = 100,
) -> None:
    """Show the journal of a container's services.

    Example:  homelab logs airflow-orchestration airflow-scheduler -f
    """
    from homelab.commands.access import logs_argv

    inventory = settings.load()
    _hand_over(logs_argv(inventory, name, unit, follow, lines, *trust_of(inventory)), inventory, name)


def _hand_over(argv: list[str], inventory: Inventory, name: str) -> None:
    """Give the terminal to ssh, and end as it ends. Raises HomelabError when it is not installed.

    Where it would not connect because of another host key, the way out is said after its own words.
    """
    from homelab.commands.access import why_refused
    from homelab.commands.terminal import handed_over

    status, interrupted = handed_over(argv)
    if status == _REFUSED and (reason := why_refused(inventory, name, trust_of(inventory)[1])):
        complain(reason)
    raise typer.Exit(130 if interrupted else status)


def secret(name: Annotated[str, typer.Argument(help="Its name, as `airflow-admin`.")] = "airflow-admin") -> None:
    """Print one secret: the password of Airflow's user `admin`, if no other is named.

    Example:  homelab secret | wl-copy
    """
    inventory = settings.load()
    vault, _ = trust_of(inventory)
    if name not in vault.names():
        raise InputError(f"There is no secret {name}", f"There are: {', '.join(vault.names()) or 'none yet'}.",
                         "They are made by the first `homelab deploy`.")
    typer.echo(vault.secret(name).reveal())
