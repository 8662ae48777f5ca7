"""Verbs for the inside of the containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli import completion
from homelab.cli.global_options import Container, DetailedExitcode, Json, Limit, add_verb, settings
from homelab.cli.results import print_error, print_result
from homelab.errors import INTERRUPTED, InputError

if TYPE_CHECKING:
    from homelab.runtime.session import Session


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    add_verb(app, deploy)
    add_verb(app, status)
    # As with OpenSSH, everything after the container's name belongs to the command.
    add_verb(app, ssh, allow_interspersed_args=False)
    add_verb(app, logs)


def deploy(
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes with diffs; change nothing.")] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback-on-failure",
            help="Take a snapshot of each container before it is changed, and go back to it if its deploy fails. "
            "Data written meanwhile, such as rows in PostgreSQL, is then lost.",
        ),
    ] = False,
    detailed_exitcode: DetailedExitcode = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and events as JSON lines on standard error.")
    ] = False,
) -> None:
    """Bring the inside of the containers to the desired state. A second run changes nothing.

    Example:  homelab deploy --dry-run
    """
    from homelab.cli.report_output import show_deploy
    from homelab.commands.deploy import deploy as run

    if rollback and dry_run:
        raise InputError("Cannot combine --rollback-on-failure and --dry-run", "", "Omit one of them.")
    session = settings.session(events=as_json or settings.json)
    reports = run(session, limit=limit or (), dry_run=dry_run, rollback=rollback)
    print_result(reports, as_json, lambda: show_deploy(reports, dry_run))
    failures = [report.failure for report in reports if report.failure]
    for failure in () if as_json else failures:
        print_error(failure)
    if failures:
        raise typer.Exit(1)
    if detailed_exitcode and any(report.changes for report in reports):
        settings.changes_found = True
        raise typer.Exit(2)


def status(as_json: Json = False) -> None:
    """Show the state of containers, services, data and the last runs. The exit code is 0 only if all are healthy.

    Example:  homelab status
    """
    from homelab.cli.report_output import show_status
    from homelab.commands.status import status as run

    report = run(settings.session())
    print_result(report, as_json, lambda: show_status(report))
    if not report.healthy:
        raise typer.Exit(1)


def ssh(
    name: Container, command: Annotated[list[str] | None, typer.Argument(help="The command; default: a shell.")] = None
) -> None:
    """Open a shell in a container, or run a command there.

    Example:  homelab ssh postgres-data systemctl --failed
    """
    from homelab.runtime.ssh_client import ssh_argv

    words = command or []
    session = settings.session()
    # click keeps a `--` behind the container's name.
    _run_ssh(session, name, ssh_argv(session, name, words[words[:1] == ["--"] :]))


def logs(
    name: Container,
    unit: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVICE|UNIT",
            help="One of its services, or a unit; default: all its services.",
            autocompletion=completion.services_and_units,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as they arrive.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="The number of lines to start with.")] = 100,
) -> None:
    """Show the journal of a container's services.

    Example:  homelab logs airflow-orchestration airflow-scheduler -f
    """
    from homelab.commands.logs import logs_argv

    session = settings.session()
    _run_ssh(session, name, logs_argv(session, name, unit, follow, lines))


def _run_ssh(session: Session, name: str, argv: list[str]) -> None:
    """Give the terminal to ssh and exit with its status; explain a changed host key after ssh's own message."""
    from homelab.runtime.interactive import run_interactive
    from homelab.runtime.ssh_client import CONNECTION_FAILED, host_key_change

    status, interrupted = run_interactive(argv)
    if status == CONNECTION_FAILED and (error := host_key_change(session, name)):
        print_error(error)
    raise typer.Exit(INTERRUPTED if interrupted else status)
