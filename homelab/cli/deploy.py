"""Verbs for the inside of the containers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homelab.cli import completion
from homelab.cli.global_options import Container, DetailedExitcode, Interval, Json, Limit, add_verb, settings
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


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Interval = 5,
    as_json: Json = False,
) -> None:
    """Show the state of containers, services, data and the last runs. The exit code is 0 only if all are healthy.

    With --watch, it is that of the last report, and JSON is one object per line.

    Example:  homelab status --watch
    """
    from homelab.cli.report_output import show_status
    from homelab.cli.watch import watch as show_again
    from homelab.commands.status import status as run

    session = settings.session()
    if watch:
        report = show_again(lambda: run(session), show_status, interval, as_json)
    else:
        report = run(session)
        print_result(report, as_json, lambda: show_status(report))
    if report is None or not report.healthy:
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
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONTAINER|SERVICE|PIPELINE|UNIT",
            help="Containers restrict the place, services, pipelines and units the content; default: all services.",
            autocompletion=completion.log_targets,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as they arrive.")] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", min=0, help="The last lines of each container; default: 100, or all with --since."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="A duration, such as 30m or 2h, or a time.")] = None,
    level: Annotated[
        Literal["error", "warning", "info", "debug"], typer.Option("--level", help="Lines of this level or worse.")
    ] = "info",
    grep: Annotated[str | None, typer.Option("--grep", help="Lines that match this regular expression.")] = None,
    as_json: Json = False,
) -> None:
    """Show the logs of services and pipelines, of several containers by time: journals, dbt, and Airflow's tasks.

    Without --since, a search with --grep or for warnings or errors covers 24 hours. JSON is one object per line.

    Example:  homelab logs airflow postgres --since 2h --level warning -f
    """
    from homelab.cli.log_output import log_printer
    from homelab.commands.logs import LogFilter, parse_pattern, parse_since
    from homelab.commands.logs import logs as run
    from homelab.runtime.interactive import default_interrupt
    from homelab.runtime.log_sources import select_logs

    session, now = settings.session(), datetime.now(UTC)
    start, pattern = since and parse_since(since, now), grep and parse_pattern(grep)
    count = 100 if lines is None and since is None else lines
    chosen = LogFilter(follow, count, start or None, level, pattern or None)
    selected = select_logs(session.inventory, targets or ())
    show = log_printer(list(selected), as_json)
    statuses: dict[str, int] = {}
    try:
        with default_interrupt():
            for line in run(session, selected, chosen, now, statuses):
                show(line)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    for name in statuses:
        _explain_host_key(session, name, statuses[name])
    raise typer.Exit(max(statuses.values(), default=0))


def _run_ssh(session: Session, name: str, argv: list[str]) -> None:
    """Give the terminal to ssh and exit with its status; explain a changed host key after ssh's own message."""
    from homelab.runtime.interactive import run_interactive

    status, interrupted = run_interactive(argv)
    _explain_host_key(session, name, status)
    raise typer.Exit(INTERRUPTED if interrupted else status)


def _explain_host_key(session: Session, name: str, status: int) -> None:
    from homelab.runtime.ssh_client import CONNECTION_FAILED, host_key_change

    if status == CONNECTION_FAILED and (error := host_key_change(session, name)):
        print_error(error)
